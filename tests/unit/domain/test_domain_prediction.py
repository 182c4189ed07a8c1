from __future__ import annotations

import dataclasses
import json

from stepladder.domain.prediction import Generation, TokenLogprob


def test_an_answer_comes_back_from_json_as_it_was() -> None:
    tokens = (TokenLogprob("a", -0.5, (("a", -0.5), ("b", -1.25))), TokenLogprob("<|im_end|>", -2.0))
    for answer in (Generation("a", 3, 2, 0.1), Generation("a", 3, 2, 0.1, logprobs=tokens)):
        assert Generation(**json.loads(json.dumps(dataclasses.asdict(answer)))) == answer
