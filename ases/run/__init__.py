"""What the commands need beside the method: flags, files, run folders, checkpoints, tables. Nothing
here is AS-ES."""
