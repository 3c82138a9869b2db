"""Codes of the errors a user can cause: the meaning of each, and the fix.

A `milbench.MilbenchError` carries one of them in its attribute ``code``, and the command line prints it in brackets at
the end of the sentence. A code stays the same when the sentence is worded anew. Where an audit refuses a cohort, the
code is that of its first finding, a key of `milbench.config.audit_codes.CODES`.
"""

from __future__ import annotations

from typing import NamedTuple


class ErrorCode(NamedTuple):
    """The meaning of a code.

    Attributes:
        means: the error in one sentence.
        fix: how to correct it.
    """

    means: str
    fix: str


#: code -> its meaning; a prefix names the area, and the codes of an area stand together
CODES = {
    # The command line and the arguments of public functions.
    "option-bad-value": ErrorCode(
        "An option or argument has a value outside of those it takes.",
        "Give one of the values that the sentence names.",
    ),
    "option-conflict": ErrorCode(
        "Two options exclude each other, or one needs another that was left out.",
        "Leave out one of them, or add the option that the sentence names.",
    ),
    "option-missing": ErrorCode("A command needs at least one of several options.", "Add one of the options named."),
    "option-bad-file": ErrorCode(
        "A file to write has an ending that says no format milbench writes there.", "Give one of the endings named."
    ),
    "budget-bad-value": ErrorCode(
        "A budget is no quantity, has an unknown unit, or counts operations that a method does not have.",
        "Write a number and a unit, such as '5000 steps' or '8 GiB'.",
    ),
    "init-strict": ErrorCode(
        "`milbench init --strict` met something that it would only have warned of.",
        "Correct what the sentence names, or leave out --strict.",
    ),
    # Files and folders, whatever they hold.
    "already-exists": ErrorCode(
        "The place to write to holds something that would be replaced.",
        "Choose another place, or remove what is there.",
    ),
    "not-writable": ErrorCode(
        "The system refuses to write or remove a file or folder.", "Correct its permissions, or choose another folder."
    ),
    "disk-full": ErrorCode("The disk has no space left.", "Free some space and give the same command again."),
    "place-busy": ErrorCode(
        "Another process of milbench writes to the same place.", "Wait for its end, stop it, or choose another place."
    ),
    "path-wrong-kind": ErrorCode(
        "There is a file where a folder is needed, or a folder, pipe or device where a file is needed.",
        "Give the right path, or move away what is there.",
    ),
    "path-outside": ErrorCode(
        "A path leads out of the folder it has to stay in, by its parts or by a symbolic link.",
        "Move the file into the folder, or remove the link.",
    ),
    "path-loop": ErrorCode("A link in a folder leads back to a folder above it.", "Remove the link."),
    "name-bad": ErrorCode(
        "A name is no text, or cannot be the name of a file or folder.",
        "Rename it: letters, digits, '.', '_' and '-' always work.",
    ),
    "name-taken": ErrorCode(
        "Two methods, metrics or folds have one name, or a metric has the name of a column.", "Rename one of them."
    ),
    "file-missing": ErrorCode("A file or folder does not exist.", "Correct the path, or copy the file again."),
    "file-unreadable": ErrorCode(
        "The system does not open a file.", "Correct its permissions, or check the drive that it lies on."
    ),
    "file-locked": ErrorCode(
        "Another process has an HDF5 file open.", "Wait until it ends, or set HDF5_USE_FILE_LOCKING=FALSE."
    ),
    "file-damaged": ErrorCode("A file is truncated or damaged.", "Copy it again, or make it again."),
    "file-changed": ErrorCode(
        "A file that milbench wrote has another content than its checksum says, or is not among the files written.",
        "Put the original back, or make it again as the sentence says.",
    ),
    "file-too-large": ErrorCode(
        "A file is larger, longer or nested deeper than any of its kind that milbench reads.", "Give the right file."
    ),
    "file-unsafe": ErrorCode(
        "A file holds Python objects, which would run code when they are loaded.",
        "Write it again with plain arrays or tensors.",
    ),
    "file-unsupported": ErrorCode(
        "A file is of a version, or uses a part of its format, that milbench does not read.",
        "Save it again in one of the forms named.",
    ),
    "file-wrong-content": ErrorCode(
        "A file is of its format, but holds something else than the features or labels that should be there.",
        "Write it again in the form named, or give another file.",
    ),
    "config-invalid": ErrorCode(
        "A TOML, YAML or JSON file does not parse, or does not have the form it needs.",
        "Correct the line that the sentence names.",
    ),
    "text-unreadable": ErrorCode(
        "A name or label has control characters or a replaced character.", "Correct the cell, or copy the file again."
    ),
    "package-missing": ErrorCode(
        "An optional package is not installed.", "Install it with the command that the sentence gives."
    ),
    "schema-unknown": ErrorCode(
        "A file was written by another version of milbench than this one reads.",
        "Upgrade milbench, or make the file again.",
    ),
    # Limits of the system.
    "system-limit": ErrorCode(
        "The system gives this process no more memory, threads, processes or open files.",
        "Raise the limit (ulimit), close other programs, or use fewer --jobs.",
    ),
    "system-refused": ErrorCode(
        "The system refused an operation on a file.", "Check the path, its permissions and the free space."
    ),
    "system-locale": ErrorCode(
        "A name or text has letters that the locale cannot write.", "Set LC_ALL=C.UTF-8 or PYTHONUTF8=1."
    ),
    "device-missing": ErrorCode(
        "A suite or command needs a CUDA device, and torch sees none.", 'Set device = "auto", or give --device cpu.'
    ),
    "reader-ended": ErrorCode(
        "A process that reads slides or starts runs was ended, or did not come to its end.",
        "Give it more memory, or replace the file that the sentence names.",
    ),
    # Suites.
    "suite-unknown": ErrorCode("There is no suite of this name, or no such suite file.", "Correct the name or path."),
    "suite-unknown-field": ErrorCode(
        "A suite file has a field that its table does not have.", "Correct the field, or move it to its table."
    ),
    "suite-missing-field": ErrorCode("A suite file lacks a field.", "Add the field that the sentence names."),
    "suite-bad-value": ErrorCode("A field of a suite file has a value it cannot take.", "Correct the value."),
    "suite-changed": ErrorCode(
        "A suite differs from the one its results were made with, under the same name and version.",
        "Raise its version, or use another --results.",
    ),
    # Formats of features.
    "format-unknown": ErrorCode("There is no format of this name.", "Give one of the formats named."),
    "format-mismatch": ErrorCode(
        "The features are not of the format given, or of no format milbench reads.",
        "Give another folder, or another --format.",
    ),
    "format-ambiguous": ErrorCode("The features may be of several formats.", "Say which with --format."),
    # Features and coordinates.
    "features-missing": ErrorCode("A file has no array or columns of features.", "Name them as the sentence says."),
    "features-bad-array": ErrorCode(
        "Features of a slide have a shape or type that cannot be kept.",
        "Save them as (rows, width) of float16 or float32.",
    ),
    "features-not-finite": ErrorCode(
        "A feature is NaN, infinite, or too large for the type it is kept in.",
        "Extract the slide again, or keep bfloat16 or float32.",
    ),
    "features-wrong-width": ErrorCode(
        "Features have another width than the model or dataset was made for.", "Give features of the same encoder."
    ),
    "features-disagree": ErrorCode(
        "Slides differ in width, coordinates or metadata, and a cache holds one kind of features.",
        "Separate them into folders, or correct the slides named.",
    ),
    "features-two-kinds": ErrorCode(
        "A folder holds features of several encoders, patch sizes or runs.", "Give the folder of one."
    ),
    "features-hold-label": ErrorCode("A column of the features is the label itself.", "Remove the column."),
    "features-not-tiles": ErrorCode(
        "A file holds vectors of slides or patients, or augmented copies, not one row for each tile.",
        "Give the folder of tile features.",
    ),
    "coords-missing": ErrorCode(
        "Something needs coordinates of patches, and a slide has none.", "Add them, or leave coordinates out."
    ),
    "coords-bad": ErrorCode(
        "Coordinates are no finite numbers of shape (rows, 2), or not as many as the features.", "Extract them again."
    ),
    "slide-twice": ErrorCode("Two files, rows or bags are of one slide.", "Keep one of them, or rename one."),
    "source-brings-own": ErrorCode(
        "The features or the dataset bring labels, splits or other fields that were given as well.",
        "Leave the field out.",
    ),
    # Feature caches.
    "cache-missing": ErrorCode("A folder is no feature cache.", "Make one with milbench cache build."),
    "cache-damaged": ErrorCode(
        "A file of a feature cache is missing, changed or damaged.",
        "Copy the cache again, or build it from its source.",
    ),
    "cache-mismatch": ErrorCode(
        "A cache holds other features than the suite or command asks for.",
        "Build it again, give another --out, or change the suite.",
    ),
    "cache-no-slides": ErrorCode("The features hold no slide with patches.", "Give the folder that holds them."),
    "cache-bad-request": ErrorCode(
        "A cache cannot be built or written this way: order, type, metadata or use of the writer.",
        "Change the argument that the sentence names.",
    ),
    # Tables.
    "table-not-utf8": ErrorCode("A table is no UTF-8 text.", "Save it as UTF-8 (Excel: CSV UTF-8)."),
    "table-empty": ErrorCode("A table has no rows, or no line at all.", "Give the file that holds them."),
    "table-damaged": ErrorCode("A table is damaged, truncated, or of another format.", "Copy or save it again."),
    "table-bad-line": ErrorCode(
        "A line has another number of cells than the header, or another form than its format.", "Correct the line."
    ),
    "table-no-header": ErrorCode("A table seems to have no line with names of columns.", "Write one above the others."),
    "table-missing-column": ErrorCode(
        "A table lacks a column.", "Name another column of it, or add the one that the sentence names."
    ),
    "table-duplicate-column": ErrorCode("A table has two columns of one name.", "Keep one, or rename one."),
    "table-column-unclear": ErrorCode(
        "It is not plain which column holds slides, patients or labels.", "Name it as the sentence says."
    ),
    "table-empty-cell": ErrorCode("A cell that has to be filled is empty.", "Fill it in, or remove the row."),
    "table-not-a-number": ErrorCode("A cell is no finite number.", "Correct it, or remove the column."),
    "table-lost-digits": ErrorCode(
        "Excel, or a real number, has lost digits of ids.", "Export the table again with ids as text."
    ),
    "table-formula": ErrorCode(
        "Cells of a workbook are formulas without a stored value.", "Open it in Excel and save it again."
    ),
    "table-sheet": ErrorCode(
        "A workbook has no such sheet, or its first one is not the table.", "Name the sheet: FILE.xlsx#SHEET."
    ),
    "table-scattered-rows": ErrorCode("Rows of one slide stand in two places.", "Sort the table by slide."),
    # Labels and names of slides and patients.
    "labels-missing": ErrorCode("A cohort has no labels.", "Give the table of them."),
    "labels-missing-value": ErrorCode(
        "Slides lack a label, or another value that the table has to give.", "Fill it in, or leave the slides out."
    ),
    "labels-conflicting-rows": ErrorCode(
        "Two rows say different things of one slide or patient.", "Keep the row that is right."
    ),
    "labels-several-values": ErrorCode("A cell names several labels or slides.", "Write one in each row."),
    "labels-no-classes": ErrorCode(
        "A column holds quantities, names or free text, not classes.", "Name another column, or the classes."
    ),
    "labels-unknown-class": ErrorCode(
        "A label or option names a class that is none of the classes.", "Correct it, or the list of classes."
    ),
    "classes-bad": ErrorCode(
        "The list of classes names one twice, one without slides, or fewer than two.", "Correct the list of classes."
    ),
    "names-unmatched": ErrorCode(
        "Slides or patients of one table or folder are not in the other.", "Correct the names, or add what is missing."
    ),
    "patient-rule-bad": ErrorCode(
        "A patient rule is no regular expression for the names of the slides.", "Correct the rule, or remove it."
    ),
    "sites-missing": ErrorCode("Slides have no site, and folds are made by site.", "Add a column of sites."),
    # Splits and cohorts.
    "split-files-missing": ErrorCode("There are no split files of this name.", "Correct split.files."),
    "split-ambiguous": ErrorCode(
        "Split files, folds or names can be read in several ways.", "Name the file, and keep the others elsewhere."
    ),
    "split-unknown-part": ErrorCode("A split says something else than train, val or test.", "Correct the cell."),
    "split-empty-part": ErrorCode("A split has no fold, or a part of it has no slide.", "Correct the split."),
    "split-no-validation": ErrorCode(
        "A fold has no validation slides, and something is selected on them.",
        'Set val_fraction in the split, or checkpoint = "last".',
    ),
    "folds-impossible": ErrorCode(
        "The patients of the classes or sites are too few for the folds.", "Use fewer folds, or leave a class out."
    ),
    "cohort-unknown-name": ErrorCode("A cohort or cache has no such fold or slide.", "Correct the name."),
    "cohort-damaged": ErrorCode(
        "Labels, classes or folds that were kept with results are missing or damaged.", "Run the suite again."
    ),
    "dataset-unknown": ErrorCode("There is no built-in dataset of this name.", "Give one of the names listed."),
    "dataset-bad-option": ErrorCode("A dataset has no such parameter, or not with this value.", "Correct it."),
    "dataset-damaged": ErrorCode("A built-in dataset is damaged on disk.", "Remove its folder, and it is built again."),
    # Methods.
    "method-unknown": ErrorCode(
        "There is no aggregator of this name, or a suite names one that it does not run.", "Correct the name."
    ),
    "method-unknown-option": ErrorCode("An aggregator has no such parameter.", "Correct the name of the parameter."),
    "method-bad-option": ErrorCode(
        "A parameter of an aggregator has a value it cannot take, or is spelled wrong.",
        "Correct the value; write NAME[KEY=VALUE,KEY=VALUE].",
    ),
    "method-not-importable": ErrorCode(
        "The module or class of an aggregator cannot be imported.", "Repair it, or put its folder on the path."
    ),
    "method-malformed": ErrorCode(
        "A class, its name or its entry point does not have the form of an aggregator.", "Correct what is named."
    ),
    "method-breaks-contract": ErrorCode(
        "An aggregator does not pass the checks of the contract.", "Correct what milbench check lists."
    ),
    "method-unsupported": ErrorCode(
        "An aggregator cannot do what is needed: it needs coordinates, or cannot be trained in a stack.",
        "Leave it out, or change the suite as the sentence says.",
    ),
    "model-bad-output": ErrorCode(
        "A model returns something else than its contract says.", "Correct the aggregator; milbench check helps."
    ),
    "bag-shape": ErrorCode(
        "Bags are given in another form than tensors (n, d) in a list, or one is empty.",
        "Make them with Bags.pack([x]), x of shape (n, d).",
    ),
    "targets-bad": ErrorCode(
        "Targets are no class indices from 0 on, one for each bag.", "Give int64 indices below n_classes."
    ),
    "authors-state-mismatch": ErrorCode(
        "Weights of the authors' code are not those of the model.", "Build the model with the sizes that they have."
    ),
    "plugin-unknown": ErrorCode(
        "There is no launcher, renderer or task type of this name.",
        "Correct the name, or install the package that adds it.",
    ),
    "plugin-broken": ErrorCode(
        "An installed package adds something that cannot be imported, is not what it says, or has a name in use.",
        "Repair or uninstall the package that the sentence names.",
    ),
    "metric-malformed": ErrorCode(
        "A metric of a package cannot be imported, fails, or is no metric.", "Correct the metric or its package."
    ),
    # Results.
    "results-missing": ErrorCode(
        "There are no results here, or none of the kind that is needed.", "Run a suite, or correct --results."
    ),
    "results-not-ranked": ErrorCode(
        "A table of AUC was requested of a cohort whose task has no classes.",
        "Leave the cohort out, or score its stored predictions by its task.",
    ),
    "results-unknown-name": ErrorCode(
        "Results have no such suite, cohort, method or condition.", "Give one of the names that are there."
    ),
    "runs-not-done": ErrorCode("Runs that are needed are not done, or did not end well.", "Run them again."),
    "run-other-cohort": ErrorCode(
        "Predictions of a run are of other bags than those of its cohort or of the other runs.",
        "Delete its folder and run the suite again.",
    ),
    "run-not-reproduced": ErrorCode(
        "A run that was trained again predicts otherwise than before.", "Run the suite again with --overwrite."
    ),
    "store-damaged": ErrorCode(
        "A file of a run, or of what was requested, is missing something or damaged.",
        "Delete its folder and run the suite again.",
    ),
    "compare-unlike-runs": ErrorCode(
        "Two methods were run under different conditions, which are not compared.", "Run both under the same ones."
    ),
    "models-not-kept": ErrorCode("Runs have kept no models.", 'Set keep_models = "best" and run the suite again.'),
    "models-ambiguous": ErrorCode(
        "Models of several cohorts, conditions or classes are there.", "Choose one with --data or --conditions."
    ),
    "model-damaged": ErrorCode(
        "A file of a kept model is damaged, or of another version of its method.", "Train the run again."
    ),
    "model-other-features": ErrorCode(
        "A model was trained on features of another encoder or extraction.", "Give the features it was trained on."
    ),
    "threshold-missing": ErrorCode(
        "A model has no such threshold: it is of several classes, or older.", "Leave the threshold out."
    ),
    "attention-missing": ErrorCode(
        "A method returns no attention.", "Leave attention out, or use source='gradient x input'."
    ),
    "pooling-matrix-undefined": ErrorCode(
        "A method has no pooling matrix or no gradient to make one of.", "Leave the method out."
    ),
    "interpret-bad-input": ErrorCode(
        "Bags, scores, targets or labels of instances are not of one size or kind.", "Correct the argument named."
    ),
    # Measurement and tuning.
    "benchmark-unusable": ErrorCode(
        "A file of benchmark times is damaged, or has too few samples.", "Record it again."
    ),
    "scaling-not-measured": ErrorCode(
        "Rates of this machine, or a loss scale, could not be measured.", "Try another dtype or device."
    ),
    "tuning-not-set": ErrorCode("A suite has no trials.", "Give it trials in [budget], or --budget '20 trials'."),
    "tuning-bad-space": ErrorCode("The search space of a method cannot be searched.", "Correct the space."),
    "tuning-storage": ErrorCode(
        "The storage of a study cannot be opened, or its journal is damaged.",
        "Give another --storage, or put back a copy of the journal.",
    ),
    "tuning-test-slides": ErrorCode("A trial was given test slides, which a study never sees.", "Report the defect."),
    # Statistics.
    "stats-bad-input": ErrorCode(
        "An argument of a metric or statistic has the wrong shape or type, or contradicts another.",
        "Give arrays of the shapes named.",
    ),
    "stats-bad-labels": ErrorCode("Labels are no class indices from 0 on.", "Give class indices."),
    "stats-out-of-range": ErrorCode("A number lies outside of its range.", "Give a number in the range named."),
    "stats-too-few": ErrorCode(
        "A statistic needs more tasks, methods, patients or classes.", "Leave it out, or give more."
    ),
    "scores-not-finite": ErrorCode("Scores are NaN or infinite: the run has diverged.", "Leave the run out."),
}
