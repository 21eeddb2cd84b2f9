"""The paper's claims, put to the test: `python -m ases.experiments NAME`.

``trials`` lists what is trained, ``one_trial`` does one of it, and ``runner`` whatever is missing;
of what was found, ``intervals`` says what it is worth, and ``tables`` and ``figures`` show it. It
all lies in ``docs/results/trials.jsonl``, a line a trial.
"""
