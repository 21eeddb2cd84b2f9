"""PET/CT reports: findings by organ, and the impression that fixed rules derive from them."""

import random

_SITES = {
    "lung": "right upper lung|right lower lung|left upper lung|left lower lung",
    "node": "left neck|right neck|mediastinum|left groin|right groin|abdomen",
    "bone": "third thoracic vertebra|fourth lumbar vertebra|left ilium|right fifth rib",
    "solid": "right liver lobe|left liver lobe|head of the pancreas|tail of the pancreas|"
    "left kidney|right kidney|spleen",
    "hollow": "stomach|duodenum|sigmoid colon|lower esophagus",
}
_SHAPE = dict(
    lung="nodule", node="lymph node", bone="bone lesion", solid="lesion", hollow="wall thickening"
)
# Uptake → SUVmax in tenths, words in the findings, words in the impression.
_UPTAKE = {
    "none": ((0, 0), "no increased uptake", "without uptake"),
    "mild": ((12, 29), "mildly increased uptake, SUVmax {:.1f}", "with mild uptake"),
    "marked": ((50, 180), "markedly increased uptake, SUVmax {:.1f}", "with marked uptake"),
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


def report(rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """Findings, and the pieces of their impression as (role, text)."""
    findings, pieces = [], []
    kinds = rng.sample(sorted(_SITES), rng.randint(1, 3))
    places = [(kind, rng.choice(_SITES[kind].split("|"))) for kind in kinds]

    for number, (kind, site) in enumerate(places, 1):
        uptake, size = rng.choice(sorted(_UPTAKE)), rng.randint(4, 29)
        suv, level, noted = _UPTAKE[uptake]
        change = rng.choice(["", "", "larger", "smaller"])
        level = level.format(rng.randint(*suv) / 10)
        compared = f", {change} than before" if change else ""
        shape = _SHAPE[kind]
        described = f"{shape} of {size} mm"
        opening = rng.choice([f"A {described} in the {site}", f"In the {site} a {described}"])
        findings.append(f"{opening} with {level}{compared}.")

        start = " " if pieces else ""
        pieces.append(("ES", f"{start}{number}. {shape.capitalize()} in the {site} {noted},"))
        if change:  # a second ES piece: labels by position are wrong from here on
            pieces.append(("ES", f" {change} than before,"))
        judged = _JUDGEMENTS.get((uptake, kind), _OTHERWISE)[size >= 10]
        if change and uptake == "marked":
            judged = _CHANGED[change]
        pieces.append(("AS", f" {judged}."))
    pieces.append(("ES", " No other abnormal uptake is seen."))

    for sentence in rng.sample(_NORMAL, rng.randint(1, 3)):
        findings.insert(rng.randint(0, len(findings)), sentence)
    return " ".join(findings), pieces
