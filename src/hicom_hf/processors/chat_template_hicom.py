"""Chat templates for prompts with videos and images, made from the LLM's own."""

# Turns every content list into one string, each video or image as its placeholder and a newline (the layout of the official
# release), then leaves the rest to the LLM's template.
FLATTEN_CONTENT = """\
{%- set flattened = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message['content'] is string -%}
{%- set flattened.messages = flattened.messages + [message] -%}
{%- else -%}
{%- set text = namespace(value='') -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'video' -%}{%- set text.value = text.value + '<<VIDEO>>\\n' -%}
{%- elif part['type'] == 'image' -%}{%- set text.value = text.value + '<<IMAGE>>\\n' -%}
{%- elif part['type'] == 'text' -%}{%- set text.value = text.value + part['text'] -%}
{%- else -%}{{ raise_exception('a part of a message must be of type video, image or text, got ' + part['type']) }}
{%- endif -%}
{%- endfor -%}
{%- set flattened.messages = flattened.messages + [dict(message, content=text.value)] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = flattened.messages -%}
"""

# Qwen2.5's layout, for an LLM whose tokenizer has no template. Source: Qwen2.5 tokenizer_config.json, without tools.
CHATML = """\
{%- if messages[0]['role'] == 'system' -%}
{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' -}}
{%- else -%}
{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' or message['role'] == 'assistant' or (message['role'] == 'system' and not loop.first) -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def multimodal_chat_template(llm_template: str | None, image_token: str, video_token: str) -> str:
    """Chat template that takes videos and images in the content, in the LLM's own layout.

    Args:
        llm_template: the LLM tokenizer's template; None for Qwen2.5's ChatML.
        image_token, video_token: the placeholders.

    Returns:
        A Jinja template: system prompt, roles and ends of turns are the LLM's; a video or image is its placeholder and a
        newline.

    Source: official release, prompt layout (default system prompt, placeholder, newline, question).
    """
    flatten = FLATTEN_CONTENT.replace("<<VIDEO>>", video_token).replace("<<IMAGE>>", image_token)
    return flatten + (llm_template or CHATML)
