"""A random Llama model in a GGUF file: it talks gibberish, but a real llama.cpp server serves it.

It writes printable characters only and never ends by itself.  The server holds bytes back until they are whole
UTF-8, so a model that writes random bytes would not stream token by token.

    python tests/servers/tiny_gguf.py tiny.gguf --width 64 --layers 2 --context 512

64 wide and 2 layers writes some thousand tokens a second, 256 and 8 some hundred.  For Ollama: a Modelfile that says
`FROM ./tiny.gguf`, then `ollama create tiny -f Modelfile`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np

# ChatML, which llama.cpp and Ollama know; the model itself understands nothing.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PRINTABLE = [chr(code) for code in range(0x21, 0x7F)]


def _add_vocabulary(writer: gguf.GGUFWriter) -> list[bool]:
    """A SentencePiece vocabulary: control tokens, every byte (so that any text can be read), printable characters.
    Returns which tokens the model may write."""
    kinds = gguf.TokenType
    entries = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    entries += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    entries += [(piece, kinds.NORMAL) for piece in ["▁", *PRINTABLE]]  # "▁" is SentencePiece's space
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in entries])
    writer.add_token_types([kind for _, kind in entries])
    writer.add_token_scores([-float(rank) for rank in range(len(entries))])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)
    return [kind == kinds.NORMAL for _, kind in entries]


def write_model(path: Path, *, width: int = 64, layers: int = 2, heads: int = 4, context: int = 512) -> Path:
    """Write the model to `path`.  The same arguments always give the same file."""
    rng = np.random.default_rng(seed=7)
    inner = 2 * width

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(0.0, 0.05, shape).astype(np.float32)

    def norm() -> np.ndarray:
        return np.ones(width, dtype=np.float32)

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(path.stem)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writable = _add_vocabulary(writer)
    writer.add_vocab_size(len(writable))

    # Channel 0 carries a constant through every layer (nothing is ever added to it), so that column 0 of the output
    # weights is a bias for each token.
    embedding, output = weights(len(writable), width), weights(len(writable), width)
    embedding[:, 0] = 1.0
    output[:, 0] = np.where(writable, 0.0, -10.0)

    tensors = {"token_embd": embedding, "output_norm": norm(), "output": output}
    for layer in range(layers):
        block = f"blk.{layer}"
        tensors[f"{block}.attn_norm"] = norm()
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors[f"{block}.{part}"] = weights(width, width)
        tensors[f"{block}.attn_output"][0] = 0.0
        tensors[f"{block}.ffn_norm"] = norm()
        tensors[f"{block}.ffn_gate"] = weights(inner, width)
        tensors[f"{block}.ffn_up"] = weights(inner, width)
        tensors[f"{block}.ffn_down"] = weights(width, inner)
        tensors[f"{block}.ffn_down"][0] = 0.0
    for name, values in tensors.items():
        writer.add_tensor(f"{name}.weight", values)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a tiny random model.")
    parser.add_argument("path", type=Path)
    for option, default in (("width", 64), ("layers", 2), ("context", 512)):
        parser.add_argument(f"--{option}", type=int, default=default)
    write_model(**vars(parser.parse_args()))
