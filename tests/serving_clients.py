"""Ask a running server through LangChain and LiteLLM; run by `test_serving_clients.py` in an environment of their own.

In: address of the server, path of a video, a question. Out: one JSON object, the answer by client.
"""

import base64
import json
import sys

import litellm
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI


def main(address: str, video: str, question: str) -> None:
    with open(video, "rb") as file:
        payload = base64.b64encode(file.read()).decode()
    url = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{payload}"}}
    content = [url, {"type": "text", "text": question}]
    answers = {}

    chat = ChatOpenAI(base_url=f"{address}/v1", api_key="none", model="hicom-tiny", temperature=0)
    message = chat.invoke([HumanMessage(content=content)])
    answers["langchain"] = message.content
    answers["langchain tokens"] = message.usage_metadata["output_tokens"]
    answers["langchain stream"] = "".join(piece.content for piece in chat.stream([HumanMessage(content=content)]))
    file = {"type": "file", "base64": payload, "mime_type": "video/mp4", "filename": "video.mp4"}
    answers["langchain file"] = chat.invoke([HumanMessage(content=[file, content[1]])]).content
    extra = chat.bind(extra_body={"mm_processor_kwargs": {"num_frames": 2}}).invoke([HumanMessage(content=content)])
    answers["langchain fewer tokens"] = extra.usage_metadata["input_tokens"] < message.usage_metadata["input_tokens"]

    for model in ("openai/hicom-tiny", "hosted_vllm/hicom-tiny"):
        asked = {"model": model, "api_base": f"{address}/v1", "api_key": "none"}
        asked["messages"] = [{"role": "user", "content": content}]
        answers[model] = litellm.completion(**asked).choices[0].message.content
        pieces = litellm.completion(**asked, stream=True)
        answers[f"{model} stream"] = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
