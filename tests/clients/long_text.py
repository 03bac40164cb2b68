"""Text of a known number of tokens."""

import json
import os
import random
import re


class LongText:
    """Random words, each one token of the model."""

    def __init__(self, model):
        with open(os.path.join(model, "tokenizer.json"), encoding="utf-8") as file:
            vocab = json.load(file)["model"]["vocab"]
        self.words = sorted(" " + token[1:] for token in vocab if re.fullmatch("Ġ[a-z]{2,}", token))
        assert len(self.words) > 100, len(self.words)

    def of(self, n_tokens, seed):
        return "".join(random.Random(seed).choices(self.words, k=n_tokens))
