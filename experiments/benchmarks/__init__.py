"""Timings of what the library computes, beside other libraries."""
