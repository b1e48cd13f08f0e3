"""Everything that is looked at: strips, contact sheets, charts, the drawn pack."""
