"""Built-in chat templates for base models without one, each in the format of its model family.

``bos_token`` and ``eos_token`` are the tokenizer's. A template adds no tokens to the vocabulary: a marker that is not in the
vocabulary becomes several ordinary tokens, which ``orpo data`` shows. A template raises for a message that the format of its
family cannot express: it would be lost, or become a message of another role.
"""

from __future__ import annotations

_EACH_MESSAGE = (  # the start of a loop that refuses tool results
    "{% for message in messages %}{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('no place for a message of the role ' + message['role']) }}{% endif %}"
)
_EACH_MESSAGE_BUT_SYSTEM = _EACH_MESSAGE + (
    "{% if message['role'] == 'system' %}{{ raise_exception('a system message must be the first message') }}{% endif %}"
)
_SYSTEM_OF_FIRST_QUESTION = (  # the system message becomes the start of the first user message
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% if not messages or messages[0]['role'] != 'user' %}"
    "{{ raise_exception('no place for a system message without a user message after it') }}{% endif %}"
    "{% else %}{% set system = '' %}{% endif %}"
)

BUILTIN_CHAT_TEMPLATES = {
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "zephyr": (
        _EACH_MESSAGE + "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}" + _EACH_MESSAGE + "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
        "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}" + _SYSTEM_OF_FIRST_QUESTION + _EACH_MESSAGE_BUT_SYSTEM + "{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    ),
    "gemma": (
        "{{ bos_token }}" + _SYSTEM_OF_FIRST_QUESTION + _EACH_MESSAGE_BUT_SYSTEM + "{{ '<start_of_turn>' "
        "+ ('model' if message['role'] == 'assistant' else message['role']) "
        "+ '\n' + (system if loop.first else '') + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "phi3": (
        _EACH_MESSAGE + "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
}
