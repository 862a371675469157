"""Export: a trained run as something to pass on, which tells of no patient, file or machine."""
