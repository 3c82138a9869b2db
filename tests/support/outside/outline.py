"""A renderer: headings and notes of a report, nothing else."""


def outline(report):
    """Return one line a heading."""
    return "\n".join(["OUTLINE", report.title, *(section.heading for section in report.results)]) + "\n"
