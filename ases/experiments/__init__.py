"""The paper's claims, put to the test: `python -m ases.experiments NAME`.

``trials`` lists what is trained, ``runner`` trains what is missing, ``report`` makes of it a table
and a figure, with the intervals that say what they are worth. All that was found lies in
``docs/results/trials.jsonl``, a line a trial.
"""
