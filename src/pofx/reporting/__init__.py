"""Reports: the tables that are computed from the code, and the page that shows a comparison."""
