"""What a report consists of: its folder, its files, and the choice of figures."""

FOLDER = "report"
HTML, MARKDOWN = "report.html", "report.md"
MADE = (HTML, MARKDOWN, "*.csv", "tables/*.tex", "figures/*.png")
"""The files of a report."""

DRAWN = ("all", "numbers", "none")
"""Which figures a report has."""
