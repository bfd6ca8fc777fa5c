"""What a practitioner runs on own data: ``python -m tlbook advise my.csv``."""
