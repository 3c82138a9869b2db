"""Labels of a cohort: tables of a user, the values in them, and the copy that ``milbench init`` makes."""
