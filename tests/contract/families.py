"""One tiny transformers config per family (and per kind within one): the table that test_families.py walks."""

from dataclasses import dataclass, field
from typing import Any

MAX_LEN = 96
WINDOW = 7  # far below the lengths of the tests, and no multiple of a page
BASE = dict(
    vocab_size=97, hidden_size=48, intermediate_size=72, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=MAX_LEN, bos_token_id=None, eos_token_id=None, pad_token_id=None, tie_word_embeddings=False,
    attention_dropout=0.0,
)  # fmt: skip
YARN = dict(rope_type="yarn", factor=4.0, rope_theta=500.0, original_max_position_embeddings=24)
LONG = dict(
    rope_type="longrope", rope_theta=500.0, short_factor=[1.0, 1.1, 1.3, 1.5, 1.9, 2.5], long_factor=[1.5, 2.0, 3.0, 4.0, 5.5, 7.0]
)  # fmt: skip

GEMMA = dict(head_dim=16, sliding_window=WINDOW, query_pre_attn_scalar=20, tie_word_embeddings=True)
MLA = dict(
    num_key_value_heads=4, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=12, v_head_dim=10, n_routed_experts=8,
    num_experts_per_tok=3, moe_intermediate_size=20, first_k_dense_replace=1,
)  # fmt: skip
MSCALE = dict(YARN, mscale=0.7, mscale_all_dim=0.9)

NEOX = {name: value for name, value in BASE.items() if name != "num_key_value_heads"}
FALCON = {name: value for name, value in NEOX.items() if name != "intermediate_size"} | dict(tie_word_embeddings=True)
GPT2 = dict(
    vocab_size=97, n_embd=48, n_layer=3, n_head=4, n_positions=MAX_LEN, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model class of transformers and its config.

    Attributes:
        family: file in arch/families that must serve it.
        model: class of transformers; its config's name has "Config" in place of "ForCausalLM" (or of "LMHeadModel").
        config: changes to `base`.
        base: the config under the changes.
        least: shortest text that is compared (longrope: both sides must be past the original context).
    """

    family: str
    model: str
    config: dict[str, Any] = field(default_factory=dict)
    least: int = 1
    base: dict[str, Any] = field(default_factory=lambda: BASE)


CASES = {
    "llama": Case("llama", "LlamaForCausalLM", dict(attention_bias=True, mlp_bias=True)),
    "mistral": Case("mistral", "MistralForCausalLM", dict(sliding_window=WINDOW, head_dim=16)),
    "qwen2": Case("qwen2", "Qwen2ForCausalLM", dict(tie_word_embeddings=True)),
    "qwen2-windows": Case("qwen2", "Qwen2ForCausalLM", dict(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)),
    "qwen2-yarn": Case("qwen2", "Qwen2ForCausalLM", dict(rope_parameters=YARN)),
    "qwen3": Case("qwen3", "Qwen3ForCausalLM", dict(head_dim=16)),
    "qwen2-linear": Case("qwen2", "Qwen2ForCausalLM", dict(rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=500.0))),
    "gemma": Case("gemma", "GemmaForCausalLM", dict(head_dim=16, tie_word_embeddings=True)),
    "gemma2": Case(
        "gemma2", "Gemma2ForCausalLM", dict(GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=3.0, num_hidden_layers=4)
    ),
    "gemma3": Case("gemma3", "Gemma3ForCausalLM", dict(GEMMA, num_hidden_layers=7, sliding_window_pattern=3)),
    "phi3": Case("phi3", "Phi3ForCausalLM", dict(sliding_window=WINDOW)),
    "phi3-short": Case(
        "phi3", "Phi3ForCausalLM", dict(original_max_position_embeddings=MAX_LEN, rope_parameters=LONG)
    ),
    "phi3-long": Case(
        "phi3", "Phi3ForCausalLM",
        dict(original_max_position_embeddings=16, rope_parameters=LONG), least=17,
    ),
    "phi4-mini": Case(
        "phi3", "Phi3ForCausalLM",
        dict(
            partial_rotary_factor=0.75, hidden_size=64, tie_word_embeddings=True, original_max_position_embeddings=16,
            rope_parameters=dict(LONG, partial_rotary_factor=0.75),
        ), least=17,
    ),
    "olmo2": Case("olmo2", "Olmo2ForCausalLM"),
    "granite": Case(
        "granite", "GraniteForCausalLM",
        dict(embedding_multiplier=12.0, residual_multiplier=0.22, attention_multiplier=0.2, logits_scaling=0.3, tie_word_embeddings=True),
    ),
    "smollm3": Case("smollm3", "SmolLM3ForCausalLM", dict(num_hidden_layers=5)),
    "mixtral": Case("mixtral", "MixtralForCausalLM", dict(num_local_experts=5, sliding_window=WINDOW)),
    "qwen2-moe": Case(
        "qwen2_moe", "Qwen2MoeForCausalLM",
        dict(num_experts=6, num_experts_per_tok=3, moe_intermediate_size=20, shared_expert_intermediate_size=28, mlp_only_layers=[1]),
    ),
    "qwen2-moe-windows": Case(
        "qwen2_moe", "Qwen2MoeForCausalLM",
        dict(
            num_experts=4, moe_intermediate_size=20, shared_expert_intermediate_size=28, num_experts_per_tok=2, norm_topk_prob=True,
            use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1,
        ),
    ),
    "qwen3-moe": Case(
        "qwen3_moe", "Qwen3MoeForCausalLM",
        dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=20, head_dim=16, norm_topk_prob=True, decoder_sparse_step=2),
    ),
    "qwen3-moe-windows": Case(
        "qwen3_moe", "Qwen3MoeForCausalLM",
        dict(
            num_experts=4, num_experts_per_tok=2, moe_intermediate_size=20, head_dim=16, use_sliding_window=True, sliding_window=WINDOW
        ),
    ),
    "deepseek-v2": Case(
        "deepseek", "DeepseekV2ForCausalLM",
        dict(
            MLA, n_group=4, topk_group=2, topk_method="group_limited_greedy", q_lora_rank=20, attention_bias=True,
            routed_scaling_factor=1.5,
        ),
    ),
    "deepseek-v2-lite": Case("deepseek", "DeepseekV2ForCausalLM", dict(MLA, q_lora_rank=None, rope_parameters=MSCALE)),
    "deepseek-v3": Case(
        "deepseek", "DeepseekV3ForCausalLM", dict(MLA, q_lora_rank=20, n_group=2, topk_group=1, n_shared_experts=1)
    ),
    "deepseek-v3-yarn": Case(
        "deepseek", "DeepseekV3ForCausalLM",
        dict(
            MLA, q_lora_rank=20, n_group=4, topk_group=2, n_shared_experts=2, rope_parameters=dict(MSCALE, mscale=1.0),
            norm_topk_prob=False,
        ),
    ),
    "gpt-oss": Case(
        "gpt_oss", "GptOssForCausalLM",
        dict(num_local_experts=5, num_experts_per_tok=2, head_dim=16, sliding_window=WINDOW, swiglu_limit=1.5, rope_parameters=YARN),
    ),
    "starcoder2": Case("starcoder2", "Starcoder2ForCausalLM", dict(sliding_window=WINDOW)),
    "phi": Case("phi", "PhiForCausalLM", dict(rope_parameters=dict(rope_type="default", rope_theta=500.0, partial_rotary_factor=0.5))),
    "gpt-neox": Case("gpt_neox", "GPTNeoXForCausalLM", dict(hidden_size=64, intermediate_size=96), base=NEOX),
    "gpt-neox-sequential": Case(
        "gpt_neox", "GPTNeoXForCausalLM", dict(hidden_size=64, use_parallel_residual=False, attention_bias=False), base=NEOX
    ),
    "falcon-7b": Case("falcon", "FalconForCausalLM", base=FALCON),
    "falcon-40b": Case("falcon", "FalconForCausalLM", dict(new_decoder_architecture=True, num_kv_heads=2, bias=True), base=FALCON),
    "falcon-11b": Case(
        "falcon", "FalconForCausalLM", dict(new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1), base=FALCON
    ),
    "falcon-sequential": Case("falcon", "FalconForCausalLM", dict(multi_query=False, parallel_attn=False), base=FALCON),
    "gpt2": Case("gpt2", "GPT2LMHeadModel", base=GPT2),
    "gpt-bigcode": Case("gpt_bigcode", "GPTBigCodeForCausalLM", base=GPT2),
    "gpt-bigcode-mha": Case("gpt_bigcode", "GPTBigCodeForCausalLM", dict(multi_query=False, tie_word_embeddings=False), base=GPT2),
}  # fmt: skip
