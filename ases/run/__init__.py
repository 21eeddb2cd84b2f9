"""What the commands need beside the method: flags, files, run folders, checkpoints, tables. Nothing
here is AS-ES. Whatever is wrong with what a user hands over raises ``ases.data.InputError``."""
