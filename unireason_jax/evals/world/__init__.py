"""The embedded world's report: what is asked, how it is judged, and the comparison of runs."""
