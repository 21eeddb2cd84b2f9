"""Command-line plumbing, none of the method. User mistakes raise ``ases.data.InputError``."""
