"""PET/CT reports: findings by organ, and the impression that fixed rules derive from them."""

import random

_SITES = {
    "lung": "the right upper lung|the right lower lung|the left upper lung|the left lower lung",
    "node": "the left neck|the right neck|the mediastinum|the left groin|the right groin|the "
    "abdomen",
    "bone": "the third thoracic vertebra|the fourth lumbar vertebra|the left ilium|the right fifth "
    "rib",
    "solid": "the right liver lobe|the left liver lobe|the head of the pancreas|the tail of the "
    "pancreas|the left kidney|the right kidney|the spleen",
    "hollow": "the stomach|the duodenum|the sigmoid colon|the lower esophagus",
}
_SHAPE = {
    "lung": "nodule",
    "node": "lymph node",
    "bone": "bone lesion",
    "solid": "lesion",
    "hollow": "wall thickening",
}
_SUV = {"none": (0, 0), "mild": (12, 29), "marked": (50, 180)}  # SUVmax in tenths
_IN_FINDINGS = {
    "none": "no increased uptake",
    "mild": "mildly increased uptake, SUVmax {:.1f}",
    "marked": "markedly increased uptake, SUVmax {:.1f}",
}
_IN_IMPRESSION = {
    "none": "without uptake",
    "mild": "with mild uptake",
    "marked": "with marked uptake",
}
_NORMAL = (
    "The brain shows a symmetric distribution of the tracer.|The thyroid is of normal size.|"
    "The heart muscle is not visualised.|No pleural effusion is seen.|The gallbladder is "
    "unremarkable.|The adrenal glands show no abnormal uptake.|The bladder shows physiological "
    "uptake.|Both ureters are of normal width.|No ascites is seen.|The muscles are unremarkable."
).split("|")
# The rules to learn: (uptake, kind) → judgement of a finding below 10 mm, and from 10 mm on.
_JUDGEMENTS = {
    ("none", "lung"): ("a benign nodule is likely", "follow-up is advised"),
    ("none", "solid"): ("a cyst is likely", "a cyst is likely"),
    ("none", "node"): ("reactive change is likely", "reactive change is likely"),
    ("none", "bone"): ("a bone island is likely", "a bone island is likely"),
    ("none", "hollow"): ("chronic inflammation is likely", "chronic inflammation is likely"),
    ("mild", "lung"): ("old inflammation is likely", "old inflammation is likely"),
    ("mild", "solid"): ("follow-up is advised", "follow-up is advised"),
    ("mild", "node"): ("reactive change is likely", "metastasis cannot be excluded"),
    ("mild", "bone"): ("degenerative change is likely", "degenerative change is likely"),
    ("mild", "hollow"): ("endoscopy is advised", "endoscopy is advised"),
    ("marked", "node"): ("metastasis is considered", "metastasis is considered"),
    ("marked", "bone"): ("metastasis is considered", "metastasis is considered"),
}
_OTHERWISE = ("malignancy is considered", "malignancy is considered")
_CHANGED = {"larger": "progression is considered", "smaller": "response to treatment is considered"}


def _judgement(kind: str, uptake: str, size: int, change: str) -> str:
    """Judgement of a finding; ``size`` in mm."""
    if change and uptake == "marked":
        return _CHANGED[change]
    small, large = _JUDGEMENTS.get((uptake, kind), _OTHERWISE)
    return large if size >= 10 else small


def report(rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """Findings, and the pieces of their impression as (role, text)."""
    findings, pieces = [], []
    kinds = rng.sample(sorted(_SITES), rng.randint(1, 3))
    places = [(kind, rng.choice(_SITES[kind].split("|"))) for kind in kinds]

    for number, (kind, site) in enumerate(places, 1):
        uptake, size = rng.choice(sorted(_SUV)), rng.randint(4, 29)
        change = rng.choice(["", "", "larger", "smaller"])
        level = _IN_FINDINGS[uptake].format(rng.randint(*_SUV[uptake]) / 10)
        compared = f", {change} than before" if change else ""
        shape = _SHAPE[kind]
        opening = rng.choice(
            [f"A {shape} of {size} mm in {site}", f"In {site} a {shape} of {size} mm"]
        )
        findings.append(f"{opening} with {level}{compared}.")

        start = " " if pieces else ""
        noun = shape[0].upper() + shape[1:]
        pieces.append(("ES", f"{start}{number}. {noun} in {site} {_IN_IMPRESSION[uptake]},"))
        if change:  # a second ES piece: labels by position are wrong from here on
            pieces.append(("ES", f" {change} than before,"))
        pieces.append(("AS", f" {_judgement(kind, uptake, size, change)}."))
    pieces.append(("ES", " No other abnormal uptake is seen."))

    for sentence in rng.sample(_NORMAL, rng.randint(1, 3)):
        findings.insert(rng.randint(0, len(findings)), sentence)
    return " ".join(findings), pieces
