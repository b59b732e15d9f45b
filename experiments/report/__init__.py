"""The paper's tables and figures from finished runs, beside the paper's own numbers."""
