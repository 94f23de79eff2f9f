"""Floor 1: text to token ids and back. Owns tokenizers, incremental detokenisation, stop strings and chat templates; knows nothing of
requests, steps or models; no torch, no network.

    Tokenizer     text <-> token ids, end-of-text ids of a model folder
    Detokenizer   token ids to text, one token at a time, never half a character
    StopStrings   holds text back while it may begin a stop string
    TextStream    both together: the text of one running request
    template      ChatTemplate: messages to a prompt (imported where chats are served: it needs jinja2)
"""

from slipstream.text.detokenize import Detokenizer
from slipstream.text.stop import StopStrings
from slipstream.text.stream import TextStream
from slipstream.text.tokenizer import Tokenizer

__all__ = ["Detokenizer", "StopStrings", "TextStream", "Tokenizer"]
