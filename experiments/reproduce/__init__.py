"""The paper's tables and figures, planned, trained, resumed and reported."""
