"""Drives a running server with the official `openai` client, as users' programs do.

Usage: openai_client.py BASE_URL   (such as http://127.0.0.1:8080/v1)
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=120)
(model,) = [m.id for m in client.models.list()]
greedy = dict(model=model, max_tokens=12, temperature=0)
messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say something."}]


def complete(prompt="Once upon a time"):
    return client.completions.create(prompt=prompt, **greedy)


def check_completion():
    answer = complete()
    assert answer.object == "text_completion" and answer.model == model, answer
    assert answer.choices[0].finish_reason in ("length", "stop"), answer
    assert 0 < answer.usage.completion_tokens <= 12, answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens, answer.usage


def check_completion_stream():
    chunks = list(client.completions.create(prompt="Once upon a time", stream=True, **greedy))
    streamed = "".join(c.choices[0].text for c in chunks if c.choices)
    assert streamed == complete().choices[0].text, streamed


def check_chat():
    answer = client.chat.completions.create(messages=messages, **greedy)
    assert answer.object == "chat.completion" and answer.choices[0].message.role == "assistant", answer
    assert answer.usage.prompt_tokens > 0 and 0 < answer.usage.completion_tokens <= 12, answer.usage


def check_chat_stream():
    whole = client.chat.completions.create(messages=messages, **greedy)
    stream = client.chat.completions.create(
        messages=messages, stream=True, stream_options={"include_usage": True}, **greedy
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert streamed == whole.choices[0].message.content, streamed
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert reasons == [whole.choices[0].finish_reason], reasons
    assert chunks[-1].usage == whole.usage, (chunks[-1].usage, whole.usage)


def check_logprobs():
    asking = dict(messages=messages, logprobs=True, top_logprobs=3, **greedy)
    whole = client.chat.completions.create(**asking)
    entries = whole.choices[0].logprobs.content
    assert len(entries) == whole.usage.completion_tokens, entries
    for entry in entries:
        assert len(entry.top_logprobs) == 3 and 0 >= entry.logprob == entry.top_logprobs[0].logprob, entry
    said = bytes(b for entry in entries for b in entry.bytes).decode(errors="replace")
    assert said == whole.choices[0].message.content, said
    chunks = list(client.chat.completions.create(stream=True, **asking))
    streamed = [e for c in chunks if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    assert streamed == entries, streamed

    silent = client.chat.completions.create(messages=messages, **greedy)
    assert silent.choices[0].logprobs is None and silent.choices[0].message == whole.choices[0].message, silent


def check_completion_logprobs():
    answer = client.completions.create(prompt="Once upon a time", logprobs=2, **greedy)
    logprobs = answer.choices[0].logprobs
    assert answer.choices[0].text == complete().choices[0].text, answer
    tops = zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True)
    assert all(top[token] == logprob == max(top.values()) for token, logprob, top in tops), logprobs
    assert logprobs.text_offset == sorted(logprobs.text_offset) and logprobs.text_offset[0] == 0, logprobs


def check_seeded_sampling():
    def sample(seed):
        request = dict(prompt="Once upon a time", model=model, max_tokens=24, temperature=1.5, top_p=0.95)
        return client.completions.create(seed=seed, **request).choices[0].text

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1, "four seeds, one text"


def check_parallel_requests():
    prompts = [f"Story number {i}:" for i in range(8)]
    alone = [complete(p).choices[0].text for p in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = [a.choices[0].text for a in pool.map(complete, prompts)]
    assert together == alone, (together, alone)


def check_errors():
    def refused(kind, **change):
        try:
            client.completions.create(**{"prompt": "x", **greedy, **change})
        except kind as error:
            assert error.body["message"], error
        else:
            raise AssertionError(f"{change} was accepted")

    refused(openai.NotFoundError, model="no-such-model")
    refused(openai.BadRequestError, temperature="warm")
    refused(openai.BadRequestError, logprobs=6)
    refused(openai.BadRequestError, prompt="word " * 20_000)


for name, check in list(globals().items()):
    if name.startswith("check_"):
        check()
        print(name.removeprefix("check_").replace("_", " "))
