"""Making training records: generator, verifier, teacher and judge, and a journal that resumes."""
