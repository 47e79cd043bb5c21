"""From scores to ranks, from ranks to one row per user, from rows to tables, tests, figures and reports."""
