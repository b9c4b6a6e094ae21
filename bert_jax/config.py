"""Every setting of a run and its default, and the rules that a setting must keep.

A recipe in `configs/` builds one of the two roots, `PretrainConfig` or `FinetuneConfig`, and
changes what differs. The command line changes single fields (`--config.optimizer.beta2=0.98`).
`validate` is called once, by the driver, before anything expensive happens.

There are no optional scalars: 0 or '' means off, and the field's comment says so.
"""

import dataclasses
import enum
import json
import math
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

from bert_jax.errors import UserError


class Norm(enum.Enum):
    """The position of layer normalisation in a residual sublayer."""

    POST = "post"  # norm(x + f(x)), as BERT was published
    PRE = "pre"  # x + f(norm(x))


class NormKind(enum.Enum):
    """The normalisation of vectors; a scale is always learned."""

    LAYER_NORM = "layer_norm"  # Ba et al. (2016), with a bias, as BERT was published
    LAYER_NORM_NO_BIAS = "layer_norm_no_bias"  # ModernBERT, section 2.1.1
    RMS_NORM = "rms_norm"  # no mean is taken away (Zhang and Sennrich, 2019)


class PositionEncoding(enum.Enum):
    """The encoding of places, each counted from the start of its example."""

    LEARNED = "learned"  # a trained table, added to the embeddings, as BERT was published
    SINUSOIDAL = "sinusoidal"  # fixed sines and cosines, added too (Vaswani et al., section 3.5)
    ROTARY = "rotary"  # queries and keys are turned by their place (Su et al., 2021)
    NONE = "none"


class PositionInit(enum.Enum):
    """The initial values of a learned position table."""

    NORMAL = "normal"  # as every other table, as BERT was published
    SINUSOIDAL = "sinusoidal"  # the fixed table of the Transformer (Vaswani et al., section 3.5)


class Activation(enum.Enum):
    """The nonlinearity of the feed-forward layers and of the masked-LM head."""

    GELU = "gelu"  # the exact one, x Phi(x) (Hendrycks and Gimpel, 2016)
    GELU_TANH = "gelu_tanh"  # its approximation by tanh (the same, section 2)
    RELU = "relu"
    SILU = "silu"  # x sigmoid(x) (the same, section 2)
    OF_ENCODER = "of_encoder"  # of a head: that of the feed-forward layers


class MlpKind(enum.Enum):
    """The feed-forward sublayer."""

    PLAIN = "plain"  # down(activation(up(x)))
    GATED = "gated"  # down(activation(up(x)) * gate(x)): GeGLU, SwiGLU, ReGLU (Shazeer, 2020)


class InputPooling(enum.Enum):
    """The tokens that a head of whole inputs reads."""

    CLS = "cls"  # the first one, [CLS]; the last one if the encoder is causal
    MEAN = "mean"  # the mean of all, [CLS] and [SEP] too
    LATE = "late"  # the same, of what the pooler makes of each (EuroBERT)
    OF_CHECKPOINT = "of_checkpoint"  # of fine-tuning: as the encoder says


class PoolerKind(enum.Enum):
    """The map between the pooled vector and a head of whole inputs."""

    TANH = "tanh"  # an affine map and tanh, as BERT was published
    RELU = "relu"  # an affine map with a bias, and ReLU (DistilBERT)
    GELU = "gelu"  # an affine map with a bias, and GELU (ELECTRA, EuroBERT)
    TRANSFORM = "transform"  # as the masked-LM transform, and for heads of tokens too (ModernBERT)
    NONE = "none"
    OF_CHECKPOINT = "of_checkpoint"  # of fine-tuning: as the encoder says


class Optimizer(enum.Enum):
    """The optimizer."""

    ADAMW = "adamw"  # Loshchilov and Hutter (2019), as BERT used it
    STABLE_ADAMW = "stable_adamw"  # slower where gradients surprise (Wortsman et al., 2023)
    LAMB = "lamb"  # You et al. (2020): each layer moves in proportion to its own norm
    MUON = "muon"  # the layers' kernels move by orthogonal matrices (Jordan et al., 2024), as far
    # as AdamW would move them (Liu et al., 2025, section 2.2); AdamW moves all else


class Schedule(enum.Enum):
    """The fall of the learning rate after its linear warm-up; t goes from 0 to 1 meanwhile."""

    LINEAR = "linear"  # 1 - t
    POLYNOMIAL = "polynomial"  # (1 - t) ** 2
    COSINE = "cosine"  # (1 + cos(pi t)) / 2
    SQRT = "sqrt"  # 1 - sqrt(t)
    CONSTANT = "constant"  # it stays
    STABLE = "stable"  # it stays, and falls linearly over the last decay_share of the run
    OF_RUN = "of_run"  # of a phase: the run's goes on


class ComputeType(enum.Enum):
    """The type of activations and matrix products; parameters are always float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Remat(enum.Enum):
    """Rematerialisation: what a layer keeps for its backward pass; the rest is computed again.

    It changes memory and speed, values by rounding alone.
    """

    NONE = "none"  # everything is kept
    PRODUCTS = "products"  # its input and the outputs of its matrix products with parameters
    INPUTS = "inputs"  # its input alone


class AttentionKernel(enum.Enum):
    """The attention kernel of pretraining; the values are the same to rounding."""

    AUTO = "auto"  # FUSED where there is one for rows so long that it pays, else PRODUCTS
    PRODUCTS = "products"  # as matrix products, which every device has
    FUSED = "fused"  # by the kernel of a TPU or GPU; attention dropout must be 0


class ExampleFormat(enum.Enum):
    """The make-up of a pretraining example (RoBERTa, section 4.2)."""

    SEGMENT_PAIR = "segment_pair"  # two runs of sentences, as BERT has them
    SENTENCE_PAIR = "sentence_pair"  # two single sentences
    FULL_SENTENCES = "full_sentences"  # sentences until a row is full, across documents
    DOC_SENTENCES = "doc_sentences"  # the same, inside a document


PAIR_FORMATS = (ExampleFormat.SEGMENT_PAIR, ExampleFormat.SENTENCE_PAIR)


class SentenceObjective(enum.Enum):
    """The objective for sentence pairs, beside the masked tokens."""

    NSP = "nsp"  # does B follow A, or is it from another document? (BERT, section 3.1)
    SOP = "sop"  # are A and B in their order, or swapped? (ALBERT, section 3.1)
    NONE = "none"


class TaskKind(enum.Enum):
    """The kind of a labelled task (`tasks/kinds.py` has what belongs to each)."""

    CLASSIFICATION = "classification"  # a class of a text or a pair, read at [CLS]
    REGRESSION = "regression"  # a number for a text or a pair, read at [CLS]
    TAGS = "tags"  # a class of each word, read at its first token
    SPANS = "spans"  # where in a text the answer to a question begins and ends
    VECTORS = "vectors"  # a vector of a text, near those of the texts that belong to it


class VectorPooling(enum.Enum):
    """The vector of a text, made of those of its tokens, [CLS] and [SEP] too."""

    CLS = "cls"  # the first one's, [CLS]; the last one's if the encoder is causal
    MEAN = "mean"  # the mean of all
    LAST = "last"  # the last one's


class VectorLoss(enum.Enum):
    """The loss of task=vectors, and with it the columns that training reads."""

    CONTRASTIVE = "contrastive"  # each query finds its right text among all texts of the batch
    SIMCSE = "simcse"  # the same; single texts, each its own right text (Gao et al., 2021b)
    COSINE = "cosine"  # of scored pairs: the squared error of the cosine
    COSENT = "cosent"  # of scored pairs: cosines are in the order of the scores (Su, 2022)


class DistilledTokens(enum.Enum):
    """The tokens that soft targets and cosine look at."""

    ALL = "all"  # but padding
    MASKED = "masked"


class TagReading(enum.Enum):
    """The meaning of the tags of words; `data/tasks/tag_schemes.py` has the schemes of entities."""

    FOUND = "found"  # entities, if the training tags are in a scheme; else as plain
    PLAIN = "plain"  # classes of words, scored by accuracy, whatever they look like
    TYPES = "types"  # the type of the entity that the word is in, or O: PER, not B-PER


class EncoderMode(enum.Enum):
    """The treatment of the encoder in fine-tuning."""

    FULL = "full"  # it is trained
    FROZEN = "frozen"  # it keeps its values, and runs without dropout
    CACHED = "cached"  # as frozen; its vectors are computed once and kept in host memory


class MaskStrategy(enum.Enum):
    """The units of tokens that are masked and predicted."""

    TOKENS = "tokens"  # single tokens (BERT, section 3.1)
    WHOLE_WORDS = "whole_words"  # all tokens of a word together, as the later published models
    SPANS = "spans"  # runs of whole words (SpanBERT, section 3.1)
    NEXT_TOKEN = "next_token"  # nothing is hidden: each token from those before it


@dataclasses.dataclass(kw_only=True, slots=True)
class EncoderConfig:
    """The shape of the encoder (BERT, section 3); BERT base by default."""

    vocab_size: int = 0  # V; 0: the tokenizer's, which is also the least that is allowed
    width: int = 768  # D
    layers: int = 12  # L
    heads: int = 12  # H; K = D / H
    kv_heads: int = 0  # of keys and values, shared by groups of queries (Ainslie et al.); 0: heads
    mlp_width: int = 3072  # F, after gating
    embedding_width: int = 0  # E of the tables, mapped to D (ALBERT, section 3.1); 0: D
    max_length: int = 512  # the longest example, in tokens: rows of a position table
    segments: int = 2  # rows of the segment table; 0: there is none
    position_encoding: PositionEncoding = PositionEncoding.LEARNED
    position_init: PositionInit = PositionInit.NORMAL  # of LEARNED
    rope_theta: float = 10_000.0  # of ROTARY: the longest wavelength is 2 pi times that
    rope_theta_local: float = 0.0  # in windowed layers (ModernBERT, section 2.1.2); 0: rope_theta
    window: int = 0  # tokens to each side that a token sees, the last included; 0: all
    global_every: int = 0  # with a window: layers 0, n, 2n, ... see all tokens; 0: no layer does
    causal: bool = False  # True: a token attends only to itself and those before it
    norm: Norm = Norm.POST
    norm_kind: NormKind = NormKind.LAYER_NORM
    norm_epsilon: float = 1e-12
    embedding_norm: bool = True  # after the sum of the embeddings
    first_norm: bool = True  # False: none before the attention of layer 0 (pre-norm alone)
    final_norm: bool = True  # of pre-norm: after the last layer; post-norm layers end in their own
    qk_norm: bool = False  # of each head's queries and keys (Dehghani et al., 2023, section 2.1)
    biases: bool = True  # of the affine maps, those of the masked-LM transform and pooler too
    mlp: MlpKind = MlpKind.PLAIN
    activation: Activation = Activation.GELU
    pooling: InputPooling = InputPooling.CLS
    pooler: PoolerKind = PoolerKind.TANH
    mlm_transform: bool = True  # an affine map, activation and norm before the output matrix
    mlm_tied: bool = True  # the output matrix is the token table
    mlm_activation: Activation = Activation.OF_ENCODER  # of the transform
    mlm_bias: bool = True  # of the output matrix
    init_stddev: float = 0.02  # of a normal distribution cut at two standard deviations
    depth_scaled_init: bool = False  # True: / sqrt(2 L) for what adds to the residual (Megatron)
    dropout_rate: float = 0.1  # on embeddings, the outputs of sublayers, and pooled vectors
    attention_dropout_rate: float = 0.1  # on attention probabilities
    attention_output_dropout_rate: float = -1.0  # -1: dropout_rate
    mlp_output_dropout_rate: float = -1.0  # -1: dropout_rate
    compute_type: ComputeType = ComputeType.FLOAT32
    attention: AttentionKernel = AttentionKernel.AUTO
    remat: Remat = Remat.NONE
    # Layers per iteration of the scan; changes speed, and values by rounding. 0: by the platform.
    unroll: int = 0


@dataclasses.dataclass(kw_only=True, slots=True)
class PretrainDataConfig:
    """The corpora, and the packing of their documents into rows."""

    corpus: str = ""  # what `bert_jax.prepare` made: DIR, or a mixture DIR=WEIGHT,DIR=WEIGHT,...
    eval_corpora: str = ""  # DIR,DIR,...: more corpora, whose held-out splits are evaluated too
    local_dir: str = ""  # where this host keeps a copy of the corpora; '': they are read in place
    format: ExampleFormat = ExampleFormat.SEGMENT_PAIR
    objective: SentenceObjective = SentenceObjective.NSP  # for pairs
    length: int = 128  # T, tokens in a row; a phase may have its own
    max_examples_per_row: int = 0  # N; 0: one for each 32 tokens of a row; 1: rows are not packed
    separate_examples: bool = True  # False: the examples of a row see each other, in training
    random_b_rate: float = 0.5  # of pairs with a continuation: B is from another document
    short_rate: float = 0.1  # of segment pairs: chance to aim at a random shorter length
    static_copies: int = 0  # K epochs with their masks, repeated (RoBERTa); 0: all differ
    block_examples: int = 1_000_000  # about, planned and shuffled together; sets host memory


@dataclasses.dataclass(kw_only=True, slots=True)
class PhaseConfig:
    """A part of the run, such as BERT's last tenth at length 512.

    Phases of one length read on where the one before ended, as for a batch size that grows; with
    another length the rows are others, and the corpus begins anew.
    """

    share: float = 1.0  # of the run's steps
    length: int = 0  # T; 0: data.length
    batch_size: int = 0  # B; 0: the run's
    learning_rate: float = 0.0  # the highest; 0: the run's
    schedule: Schedule = Schedule.OF_RUN  # others: over the phase's own steps
    weight_decay: float = -1.0  # -1: the run's
    mask_rate: float = 0.0  # 0: the run's
    rope_theta: float = 0.0  # 0: the encoder's
    window: int = -1  # -1: the encoder's


@dataclasses.dataclass(kw_only=True, slots=True)
class MaskingConfig:
    """The targets of the language model, and how they are hidden; NEXT_TOKEN hides nothing."""

    strategy: MaskStrategy = MaskStrategy.TOKENS
    rate: float = 0.15  # share of an example's ordinary tokens that are predicted
    final_rate: float = 0.0  # rate of the last step, reached linearly; 0: the rate is constant
    uniform_rate: bool = False  # True: each example draws its rate from 0 to 1; `rate` is not read
    weigh_by_rate: bool = False  # True: losses count 1 / rate, as in masked diffusion (LLaDA)
    smoothing: float = 0.0  # a token is chosen with a weight of count^-smoothing (DistilBERT: 0.7)
    mask_share: float = 0.8  # of those, replaced by [MASK]
    random_share: float = 0.1  # of those, replaced by a random token; the rest is kept
    span_stop_rate: float = 0.2  # chance that a span ends after each of its words
    span_longest: int = 10  # words in a span, at most


@dataclasses.dataclass(kw_only=True, slots=True)
class OptimizerConfig:
    """The update rule and the learning rate: a linear warm-up, then down until the last step."""

    rule: Optimizer = Optimizer.ADAMW
    learning_rate: float = 1e-4  # the highest
    warmup_steps: int = 10_000
    initial_share: float = 0.0  # of the highest rate, at step 0 of the warm-up
    schedule: Schedule = Schedule.LINEAR
    decay_share: float = 0.1  # of STABLE: part of the run
    final_share: float = 0.0  # of the highest rate, due one step after the last update
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    bias_correction: bool = True  # False: as the published BERT code
    first_moment_type: ComputeType = ComputeType.FLOAT32  # BFLOAT16 saves 2 bytes a parameter
    momentum: float = 0.95  # of MUON
    update_rms: float = 0.2  # of MUON, times the learning rate; AdamW's is 0.2 to 0.4
    weight_decay: float = 0.01  # times the learning rate; not on biases and norms
    decoupled_decay: bool = False  # True: times learning rate / highest learning rate
    clip_norm: float = 1.0  # of the global gradient norm; 0: off


@dataclasses.dataclass(kw_only=True, slots=True)
class MeshConfig:
    """The mesh; the product of its axes must be the number of devices."""

    data: int = 0  # copies of the model, each with its own rows; 0: as many as the devices allow
    fsdp: int = 1  # as data, and parameters are split too
    tensor: int = 1  # heads and feed-forward units are split


@dataclasses.dataclass(kw_only=True, slots=True)
class HostsConfig:
    """The time limits of a run with several processes."""

    start_seconds: int = 300  # in which all must have come


@dataclasses.dataclass(kw_only=True, slots=True)
class PretrainConfig:
    """A pretraining run."""

    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    data: PretrainDataConfig = dataclasses.field(default_factory=PretrainDataConfig)
    masking: MaskingConfig = dataclasses.field(default_factory=MaskingConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    phases: list[PhaseConfig] = dataclasses.field(
        default_factory=list  # one after another; none: one phase, as `data` and `batch_size` say
    )
    sentence_loss_weight: float = 1.0  # of the mean NSP or SOP loss
    layer_decay: float = 1.0  # rate of each layer relative to the one above it
    average_decay: float = 0.0  # of a moving average of the parameters, kept too; 0: none is kept
    batch_size: int = 256  # B, rows in the global batch
    micro_batches: int = 1  # parts of a batch that are computed one after another, to save memory
    steps: int = 1_000_000
    seed: int = 0
    log_steps: int = 100  # steps between lines of metrics
    eval_steps: int = 10_000  # steps between evaluations on the held-out split; 0: never
    eval_batches: int = 50  # of the held-out split, at most; always the same ones
    eval_full_sentences: bool = False  # of rows of full sentences, to compare runs of other formats
    checkpoint_steps: int = 10_000  # steps between checkpoints; the last step always has one
    keep_checkpoints: int = 3  # the newest ones; older ones are deleted
    keep_every_steps: int = 0  # checkpoints of its multiples are never deleted; 0: none of them
    profile: str = ""  # FIRST:LAST, the steps whose profile goes to WORKDIR/profile; '': none
    debug: bool = False  # check ids, and end at the first NaN with its cause; slow


@dataclasses.dataclass(kw_only=True, slots=True)
class DistillationConfig:
    """The lessons of a teacher: mean losses, each with its weight in their sum; 0 leaves one out.

    Losses of attention and relations compare distributions over the tokens that a token sees:
    softmax(Q K^T), and softmax(X X^T) of queries, keys or values (MiniLM, sections 3.1 and 3.2).
    """

    mlm_weight: float = 1.0  # of the student's own masked-LM loss
    soft_weight: float = 0.0  # T^2 KL of the probabilities of tokens (Hinton et al., section 2)
    temperature: float = 2.0  # T
    cosine_weight: float = 0.0  # 1 - cosine of the last hidden vectors (DistilBERT, section 2)
    tokens: DistilledTokens = DistilledTokens.ALL  # that soft targets and cosine look at
    attention_weight: float = 0.0  # MiniLM
    query_weight: float = 0.0  # MiniLMv2
    key_weight: float = 0.0  # MiniLMv2
    value_weight: float = 0.0  # MiniLM, and v2
    relation_heads: int = 0  # that widths are split into, in these four; 0: the models' own heads
    student_layer: int = -1  # whose attention and relations learn; negative ones count from the top
    teacher_layer: int = -1  # from which they learn
    hidden_weight: float = 0.0  # squared error of hidden vectors, after a learned map (TinyBERT)
    hidden_pairs: str = ""  # STUDENT:TEACHER,...: layers from 0; -1 is the embeddings
    compute_type: ComputeType = ComputeType.FLOAT32  # of the teacher


@dataclasses.dataclass(kw_only=True, slots=True)
class DistillConfig(PretrainConfig):
    """A distilling run: a pretraining run whose loss also looks at a teacher."""

    student_layers: str = ""  # of the teacher, that the student's begin as: 0,2,4,...; '': random
    distillation: DistillationConfig = dataclasses.field(default_factory=DistillationConfig)


@dataclasses.dataclass(kw_only=True, slots=True)
class TaskDataConfig:
    """A labelled task: its files, or datasets tfds:NAME[/CONFIG]:SPLIT, and the columns to read.

    A name may have alternatives, "sentence|3": the first that is there counts.
    """

    train: str = ""
    unlabelled: str = ""  # more inputs, for which the teacher's answers are all that is learned
    dev: str = ""  # held out; several with commas between, the first chooses the best epoch
    header: bool = True  # .tsv and .csv begin with column names; False: columns are 0, 1, ...
    text_column: str = "text"
    text_pair_column: str = ""  # '': the task has single inputs
    label_column: str = "label"  # of vectors, scores: '' where the held-out pairs have none
    negative_columns: str = ""  # of vectors: texts that are wrong, with commas between
    positive_label: str = ""  # whose F1 is told where there are two; '': the last one
    word_column: str = "form|tokens|words|0"  # of tags; in files without names their numbers
    tag_column: str = "upos|ner_tags|tags|-1"  # of tags
    tag_scheme: TagReading = TagReading.FOUND  # of tags
    skip_bad_rows: bool = False  # leave out, and count, rows that cannot be used; False: refuse
    examples: int = 0  # how many to train on, drawn by the seed, of classes by share; 0: all
    examples_per_class: int = 0  # how many of each class to train on, drawn by the seed; 0: all
    length: int = 128  # T; longer tags and spans become windows, the rest is cut, and counted
    stride: int = 64  # tokens from one window to the next
    question_length: int = 64  # tokens of a question, at most; longer ones are cut, and counted
    answer_length: int = 30  # tokens of a predicted answer, at most
    max_examples_per_row: int = 0  # N; 0: one for each 8 tokens of a row; 1: rows are not packed


@dataclasses.dataclass(kw_only=True, slots=True)
class VectorsConfig:
    """The vector of a text and the loss that trains it, of task=vectors.

    A checkpoint keeps them, and `evaluate` and `predict` make its vectors in the same way.
    """

    pooling: VectorPooling = VectorPooling.MEAN
    normalised: bool = True  # to length 1; False: CONTRASTIVE compares by the plain product
    widths: str = ""  # 64,128,...: beginnings that are vectors, too (Kusupati et al., 2022)
    query_prompt: str = ""  # put before each text of data.text_column
    text_prompt: str = ""  # put before each text of the other columns
    loss: VectorLoss = VectorLoss.CONTRASTIVE
    temperature: float = 0.05  # similarities are divided by it; not those of COSINE
    symmetric: bool = False  # of CONTRASTIVE and SIMCSE: right texts find their queries, too
    highest_score: float = 1.0  # of COSINE: the score that stands for a cosine of 1


@dataclasses.dataclass(kw_only=True, slots=True)
class FinetuneConfig:
    """A fine-tuning run; the encoder's shape comes from the checkpoint."""

    task: TaskKind = TaskKind.CLASSIFICATION
    metric: str = ""  # which score chooses the best epoch; '': the first of the kind
    data: TaskDataConfig = dataclasses.field(default_factory=TaskDataConfig)
    vectors: VectorsConfig = dataclasses.field(default_factory=VectorsConfig)
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(learning_rate=5e-5, warmup_steps=0)
    )
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    transfer: bool = True  # False: only the checkpoint's shape and tokenizer (a baseline)
    keep_head: bool = False  # of a checkpoint that was fine-tuned for the same task
    fresh_layers: int = 0  # top layers of the encoder that begin anew
    encoder_mode: EncoderMode = EncoderMode.FULL
    pooling: InputPooling = InputPooling.OF_CHECKPOINT  # of whole inputs
    pooler: PoolerKind = PoolerKind.OF_CHECKPOINT
    feature_layers: int = 1  # the head reads the last so many layers, side by side
    layer_decay: float = 1.0  # rate of each layer relative to the one above it
    head_learning_rate: float = 0.0  # of all that is not the encoder; 0: optimizer.learning_rate
    dropout_rate: float = 0.1  # in the encoder and before the head
    label_smoothing: float = 0.0  # of classes
    teacher: str = ""  # a checkpoint fine-tuned for this task, whose answers are learned as well
    teacher_weight: float = 0.5  # of its answers in the loss; the labels have the rest
    temperature: float = 2.0  # of the probabilities of both, where it teaches
    class_weights: str = ""  # of classes: LABEL=WEIGHT,...; or 'balanced'; '': all 1
    batch_size: int = 32  # E, examples or windows in a batch
    micro_batches: int = 1  # parts of a batch that are computed one after another, to save memory
    remat: Remat = Remat.NONE  # of the encoder
    epochs: int = 3
    eval_epochs: int = 1  # from one evaluation to the next; the last epoch has one in any case
    patience: int = 0  # evaluations without a better score before the run ends; 0: never
    warmup_share: float = 0.1  # of all steps, when optimizer.warmup_steps is 0
    seed: int = 0
    seeds: int = 1  # runs, with the seeds from `seed` on, each in WORKDIR/seed-N
    log_steps: int = 20
    profile: str = ""  # FIRST:LAST, the steps whose profile goes to WORKDIR/profile; '': none
    debug: bool = False  # check ids, and end at the first NaN with its cause; slow


@dataclasses.dataclass(kw_only=True, slots=True)
class SweepConfig(FinetuneConfig):
    """Fine-tuning runs side by side: each of `seeds` seeds with each of the learning rates."""

    learning_rates: str = ""  # with commas between; optimizer.learning_rate is the highest of them


# A resumed run may change these: they decide where and how it is computed, what is reported and
# what is kept; never the rows, the model or the schedule.
FREE_FIELDS = frozenset(
    {"mesh.data", "mesh.fsdp", "mesh.tensor", "micro_batches", "encoder.remat", "encoder.unroll"}
    | {"encoder.attention", "remat", "data.local_dir", "data.eval_corpora"}
    | {"log_steps", "eval_steps", "eval_batches", "eval_full_sentences"}
    | {"checkpoint_steps", "keep_checkpoints", "keep_every_steps", "profile", "debug"}
    | {"hosts.start_seconds"}
)

_FORMER_NAMES = {"skip_misplaced": "skip_bad_rows"}  # of fields in stored configs

# Paths with commas between; on a command line also by repeating the field.
PATH_LISTS = frozenset({"data.corpus", "data.eval_corpora", "data.dev"})

# What a teacher teaches; each has a weight in `DistillationConfig`.
LESSONS = ("soft", "cosine", "attention", "query", "key", "value", "hidden")

UNREAD = "(not read)"  # stands for a file of which only the name matters

MAX_PHASES = 16  # what the name of a row has room for


class Launch(typing.NamedTuple):
    """The words of a command line by which a process finds the others of its run; none: alone."""

    coordinator: str = ""  # HOST:PORT of process 0, where JAX finds none
    processes: str = ""  # how many; "auto": JAX finds them; "": auto on a cluster, else 1
    process: int = -1  # the number of this one, from 0


class Similarity(enum.Enum):
    """The number that ranks a document for a query."""

    COSINE = "cosine"  # the product of the vectors, each divided by its length
    PRODUCT = "product"  # of the plain vectors


class SearchOptions(typing.NamedTuple):
    """The words of a command line about the vectors of a search; None: as the checkpoint has it.

    A checkpoint of task=vectors has what it was trained with; any other has the cosine of means, no
    prompts, and the length of its position table.
    """

    pooling: VectorPooling | None = None
    similarity: Similarity | None = None
    query_prompt: str | None = None
    text_prompt: str | None = None
    length: int | None = None  # tokens that longer texts are cut to


RootConfig = PretrainConfig | FinetuneConfig
AnyConfig = TypeVar("AnyConfig")


def validate(config: RootConfig) -> None:
    """Checks every rule that needs no data.

    Raises:
      UserError: naming the first field that breaks a rule, its value and the remedy.
    """
    _validate_types(config, "")
    if isinstance(config, PretrainConfig):
        _validate_pretraining(config)
    else:
        _validate_finetuning(config)
    _validate_optimizer(config.optimizer)
    for axis in ("fsdp", "tensor"):
        _at_least(f"mesh.{axis}", getattr(config.mesh, axis), 1)
    _at_least("mesh.data", config.mesh.data, 0)
    _at_least("hosts.start_seconds", config.hosts.start_seconds, 1)
    for name in ("batch_size", "micro_batches"):
        _at_least(name, getattr(config, name), 1)
    _at_least("log_steps", config.log_steps, 1)
    if config.profile:
        first, _, last = config.profile.partition(":")
        if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last)):
            raise UserError(f"--config.profile={config.profile} must be FIRST:LAST, such as 10:15")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"--config.seed={config.seed} must be from 0 to {2**32 - 1}")


def validate_encoder(config: EncoderConfig) -> None:
    """Checks the encoder's shape; also for one that was read from a checkpoint."""
    for name in ("width", "layers", "heads", "mlp_width", "max_length"):
        _at_least(f"encoder.{name}", getattr(config, name), 1)
    sizes = "vocab_size segments kv_heads embedding_width window global_every unroll"
    for name in sizes.split():
        _at_least(f"encoder.{name}", getattr(config, name), 0)
    if config.width % config.heads:
        raise UserError(
            f"--config.encoder.heads={config.heads} does not divide encoder.width={config.width}:"
            f" choose heads among {_divisors(config.width, 16)}"
        )
    if config.kv_heads and config.heads % config.kv_heads:
        raise UserError(
            f"--config.encoder.kv_heads={config.kv_heads} does not divide encoder.heads="
            f"{config.heads}: choose among {_divisors(config.heads, 16)}"
        )
    for name in ("dropout_rate", "attention_dropout_rate"):
        _rate(f"encoder.{name}", getattr(config, name), below_one=True)
    for name in ("attention_output_dropout_rate", "mlp_output_dropout_rate"):
        if getattr(config, name) != -1:
            _rate(f"encoder.{name}", getattr(config, name), below_one=True)
    if config.attention is AttentionKernel.FUSED and config.attention_dropout_rate:
        raise UserError(
            f"--config.encoder.attention_dropout_rate={config.attention_dropout_rate}:"
            " encoder.attention=fused has no dropout: set it to 0, or encoder.attention=products"
        )
    for name in ("norm_epsilon", "init_stddev", "rope_theta"):
        _positive(f"encoder.{name}", getattr(config, name))
    _at_least("encoder.rope_theta_local", config.rope_theta_local, 0)
    _validate_positions(config)
    if config.global_every and not config.window:
        raise UserError(
            f"--config.encoder.global_every={config.global_every} without a window: every layer"
            " sees all tokens; set encoder.window, or global_every=0"
        )
    if config.activation is Activation.OF_ENCODER:
        others = ", ".join(each.value for each in Activation if each is not Activation.OF_ENCODER)
        raise UserError(
            f"--config.encoder.activation=of_encoder is of mlm_activation: choose one of {others}"
        )
    for name, kind in (("pooling", InputPooling), ("pooler", PoolerKind)):
        if (value := getattr(config, name)) is kind.OF_CHECKPOINT:
            others = ", ".join(each.value for each in kind if each is not value)
            raise UserError(
                f"--config.encoder.{name}=of_checkpoint is of fine-tuning: choose one of {others}"
            )
    if config.pooling is InputPooling.LATE and config.pooler is PoolerKind.NONE:
        raise UserError(
            "--config.encoder.pooling=late averages what the pooler makes, and encoder.pooler=none:"
            " set encoder.pooling=mean, or a pooler"
        )
    if config.embedding_width not in (0, config.width) and config.mlm_tied:
        if not config.mlm_transform:
            raise UserError(
                f"--config.encoder.embedding_width={config.embedding_width}: without a transform"
                f" the token table cannot read vectors of width={config.width}: set"
                " encoder.mlm_transform=True, or mlm_tied=False"
            )
    if config.norm is Norm.POST:
        for name in ("first_norm", "final_norm"):
            if not getattr(config, name):
                raise UserError(
                    f"--config.encoder.{name}=False is of encoder.norm=pre: set one of the two"
                )


def _validate_positions(config: EncoderConfig) -> None:
    """Checks the settings of places, each of which belongs to one encoding."""
    encoding, head_width = config.position_encoding, config.width // config.heads
    name = f"position_encoding={encoding.value}"
    if encoding is PositionEncoding.ROTARY and head_width % 2:
        raise UserError(
            f"--config.encoder.heads={config.heads} makes heads {head_width} wide:"
            f" encoder.{name} turns pairs, so width / heads must be even"
        )
    if encoding is not PositionEncoding.LEARNED and config.position_init is not PositionInit.NORMAL:
        raise UserError(
            f"--config.encoder.position_init={config.position_init.value} is of a learned table,"
            f" and encoder.{name} has none: set one of the two"
        )
    if config.rope_theta_local and not (encoding is PositionEncoding.ROTARY and config.window):
        raise UserError(
            f"--config.encoder.rope_theta_local={config.rope_theta_local:g} is of windowed layers"
            " with rotary positions: set encoder.window and encoder.position_encoding=rotary, or"
            " rope_theta_local=0"
        )
    is_sinusoidal = PositionInit.SINUSOIDAL is config.position_init
    width = config.embedding_width or config.width
    if width % 2 and (is_sinusoidal or encoding is PositionEncoding.SINUSOIDAL):
        field = "embedding_width" if config.embedding_width else "width"
        which = "position_init=sinusoidal" if is_sinusoidal else name
        raise UserError(
            f"--config.encoder.{field}={width} is odd: encoder.{which} needs"
            " as many sines as cosines"
        )


def _validate_types(config: Any, prefix: str) -> None:
    for name, wanted in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if item := item_type(wanted):
            if not isinstance(value, list) or not all(isinstance(each, item) for each in value):
                raise UserError(f"--config.{prefix}{name} must be a list of {item.__name__}")
            for number, each in enumerate(value):
                _validate_types(each, f"{prefix}{name}[{number}].")
            continue
        suits = isinstance(value, (int, float) if wanted is float else wanted)
        if not suits or (isinstance(value, bool) and wanted is not bool):
            raise UserError(
                f"--config.{prefix}{name}={value!r} must be of type {wanted.__name__},"
                f" not {type(value).__name__}"
            )
        if dataclasses.is_dataclass(value):
            _validate_types(value, f"{prefix}{name}.")


def _validate_pretraining(config: PretrainConfig) -> None:
    validate_encoder(config.encoder)
    data = config.data
    if not data.corpus:
        raise UserError(
            "--config.data.corpus is not set: name a directory that `bert_jax.prepare` made"
        )
    _at_least("data.length", data.length, 8)
    _fits_position_table("data.length", data.length, config.encoder.max_length)
    _at_least("data.max_examples_per_row", data.max_examples_per_row, 0)
    _at_least("data.block_examples", data.block_examples, 1)
    _at_least("data.static_copies", data.static_copies, 0)
    _rate("data.random_b_rate", data.random_b_rate)
    _rate("data.short_rate", data.short_rate)
    _validate_objective(data)
    if data.objective is not SentenceObjective.NONE and not config.encoder.segments:
        raise UserError(
            f"--config.encoder.segments=0: data.objective={data.objective.value} needs two texts"
            " told apart: set segments=2, or data.objective=none"
        )
    _validate_phases(config)
    _at_least("sentence_loss_weight", config.sentence_loss_weight, 0)
    _rate("average_decay", config.average_decay, below_one=True)
    _rate("layer_decay", config.layer_decay)
    _positive("layer_decay", config.layer_decay)
    _validate_masking(config.masking, config.encoder)
    _validate_phase_masking(config)
    if isinstance(config, DistillConfig):
        _validate_distilling(config)
    for name in ("steps", "checkpoint_steps", "keep_checkpoints", "eval_batches"):
        _at_least(name, getattr(config, name), 1)
    for name in ("eval_steps", "keep_every_steps"):
        _at_least(name, getattr(config, name), 0)
    if config.optimizer.warmup_steps >= config.steps:
        raise UserError(
            f"--config.optimizer.warmup_steps={config.optimizer.warmup_steps} leaves no step"
            f" to train: it must be below steps={config.steps}"
        )


def _validate_distilling(config: DistillConfig) -> None:
    lessons, encoder = config.distillation, config.encoder
    for field in dataclasses.fields(lessons):
        if field.name.endswith("_weight"):
            _at_least(f"distillation.{field.name}", getattr(lessons, field.name), 0)
    taught = [name for name in LESSONS if getattr(lessons, f"{name}_weight")]
    if not taught:
        raise UserError(
            "--config.distillation has no lesson of the teacher: set one of"
            f" {', '.join(f'{name}_weight' for name in LESSONS)} above 0"
        )
    _positive("distillation.temperature", lessons.temperature)
    if config.data.objective is not SentenceObjective.NONE:
        raise UserError(
            f"--config.data.objective={config.data.objective.value}: a student has no sentence"
            " head: set data.objective=none"
        )
    if config.student_layers:
        count = len(layer_numbers("student_layers", config.student_layers))
        if count != encoder.layers:
            raise UserError(
                f"--config.student_layers={config.student_layers} names {count} layers, and"
                f" encoder.layers={encoder.layers}: make them the same number"
            )
    _at_least("distillation.relation_heads", lessons.relation_heads, 0)
    if lessons.relation_heads and encoder.width % lessons.relation_heads:
        raise UserError(
            f"--config.distillation.relation_heads={lessons.relation_heads} does not divide"
            f" encoder.width={encoder.width}: choose among {_divisors(encoder.width, 64)}"
        )
    layers = encoder.layers
    check_layer(
        "distillation.student_layer", lessons.student_layer, layers, "student", lowest=-layers
    )
    pairs = layer_pairs(lessons)
    if bool(pairs) != (lessons.hidden_weight > 0):
        raise UserError(
            f"--config.distillation.hidden_pairs={lessons.hidden_pairs} and"
            f" hidden_weight={lessons.hidden_weight}: give both, or neither"
        )
    for number, _ in pairs:
        check_layer("distillation.hidden_pairs", number, layers, "student", lowest=-1)


def layer_numbers(name: str, text: str) -> list[int]:
    """Reads numbers with commas between.

    Raises:
      UserError: if it is anything else; `name` is that of the field.
    """
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise UserError(f"--config.{name}={text} must be numbers of layers, such as 0,2,4")
    return [int(word) for word in words]


def vector_widths(text: str) -> list[int]:
    """Returns the widths that `VectorsConfig.widths` names, ascending.

    Raises:
      UserError: if they are no numbers from 1.
    """
    words = text.split(",") if text else []
    if not all(word.strip().isdecimal() and int(word) for word in words):
        raise UserError(f"--config.vectors.widths={text} must be numbers from 1, such as 64,128")
    return sorted({int(word) for word in words})


def layer_pairs(config: DistillationConfig) -> list[tuple[int, int]]:
    """Returns (layer of the student, layer of the teacher) of `hidden_pairs`.

    Raises:
      UserError: if it is no list of pairs.
    """
    if not config.hidden_pairs:
        return []
    try:
        pairs = [each.split(":") for each in config.hidden_pairs.split(",")]
        return [(int(student), int(teacher)) for student, teacher in pairs]
    except ValueError:
        raise UserError(
            f"--config.distillation.hidden_pairs={config.hidden_pairs} must be pairs of layers,"
            " STUDENT:TEACHER, such as 0:1,1:3"
        ) from None


def check_layer(name: str, number: int, layers: int, whose: str, *, lowest: int = 0) -> None:
    """Checks the number of a layer.

    Args:
      name: of the field.
      number: given there.
      layers: of the model.
      whose: 'student' or 'teacher'.
      lowest: that the field takes.

    Raises:
      UserError: if the model has no such layer.
    """
    if not lowest <= number < layers:
        raise UserError(
            f"--config.{name}: the {whose} has {layers} layers, and no layer {number}: choose from"
            f" {lowest} to {layers - 1}"
        )


def _validate_objective(data: PretrainDataConfig) -> None:
    """Refuses an objective that its examples cannot carry."""
    wants = f"--config.data.objective={data.objective.value} needs"
    if data.objective is not SentenceObjective.NONE and data.format not in PAIR_FORMATS:
        raise UserError(
            f"{wants} pairs, and data.format={data.format.value} has none: choose segment_pair or"
            " sentence_pair, or objective=none"
        )
    if data.objective is not SentenceObjective.NONE and not data.separate_examples:
        raise UserError(
            f"{wants} examples that do not see each other: set data.separate_examples=True, or"
            " objective=none"
        )
    if data.objective is SentenceObjective.NSP and not 0 < data.random_b_rate < 1:
        raise UserError(
            f"{wants} both answers to occur: set data.random_b_rate={data.random_b_rate} above 0"
            " and below 1, or objective=none"
        )
    if data.objective is SentenceObjective.SOP and data.random_b_rate != 0:
        raise UserError(
            f"{wants} pairs of one document: set data.random_b_rate={data.random_b_rate} to 0"
        )


def _validate_phases(config: PretrainConfig) -> None:
    for number, phase in enumerate(config.phases):
        name = f"phases[{number}]"
        _rate(f"{name}.share", phase.share)
        _positive(f"{name}.share", phase.share)
        if phase.length:
            _at_least(f"{name}.length", phase.length, 8)
            _fits_position_table(f"{name}.length", phase.length, config.encoder.max_length)
        _at_least(f"{name}.batch_size", phase.batch_size, 0)
        for field in ("learning_rate", "rope_theta"):
            _at_least(f"{name}.{field}", getattr(phase, field), 0)
        _rate(f"{name}.mask_rate", phase.mask_rate, below_one=True)
        if phase.weight_decay != -1:
            _at_least(f"{name}.weight_decay", phase.weight_decay, 0)
        _at_least(f"{name}.window", phase.window, -1)
        _validate_phase_encoder(name, phase, config.encoder)
    if len(config.phases) > MAX_PHASES:
        raise UserError(f"--config.phases has {len(config.phases)} phases: {MAX_PHASES} at most")
    _validate_phase_rates(config)
    total = sum(phase.share for phase in config.phases)
    if config.phases and abs(total - 1) > 1e-6:
        raise UserError(f"--config.phases have shares that add up to {total:g}: make it 1")


def _validate_phase_encoder(name: str, phase: PhaseConfig, encoder: EncoderConfig) -> None:
    """Refuses what changes an encoder that has no such thing."""
    encoding = encoder.position_encoding
    if phase.rope_theta and encoding is not PositionEncoding.ROTARY:
        raise UserError(
            f"--config.{name}.rope_theta={phase.rope_theta:g}: positions are"
            f" {encoding.value}: set encoder.position_encoding=rotary, or leave it out"
        )
    if phase.window > 0 and not encoder.window:
        raise UserError(
            f"--config.{name}.window={phase.window}: set encoder.window as well, and the"
            " phases without one to window=0"
        )


def _validate_phase_rates(config: PretrainConfig) -> None:
    """Refuses a warm-up that a phase with another rate cuts off: its rate would not be reached."""
    optimizer, share = config.optimizer, 0.0
    for number, phase in enumerate(config.phases):
        is_own = phase.learning_rate or phase.schedule is not Schedule.OF_RUN
        end = round(share * config.steps)
        end_of_own = round((share + phase.share) * config.steps)
        if not number and phase.schedule is not Schedule.OF_RUN:
            if end_of_own <= optimizer.warmup_steps:
                raise UserError(
                    f"--config.optimizer.warmup_steps={optimizer.warmup_steps}: phases[0] ends"
                    f" after step {end_of_own}, before its schedule begins: lower warmup_steps, or"
                    " raise the phase's share"
                )
        elif number and is_own and end < optimizer.warmup_steps:
            raise UserError(
                f"--config.optimizer.warmup_steps={optimizer.warmup_steps}: phases[{number - 1}]"
                f" ends after step {end}, so that learning_rate={optimizer.learning_rate:g} is"
                " never reached: lower warmup_steps, or raise the phase's share"
            )
        share += phase.share


def _validate_masking(config: MaskingConfig, encoder: EncoderConfig) -> None:
    for name in ("rate", "final_rate"):
        _rate(f"masking.{name}", getattr(config, name), below_one=True)
    _positive("masking.rate", config.rate)
    for name in ("mask_share", "random_share", "span_stop_rate"):
        _rate(f"masking.{name}", getattr(config, name))
    if config.mask_share + config.random_share > 1 + 1e-9:
        raise UserError(
            f"--config.masking.mask_share={config.mask_share} and"
            f" random_share={config.random_share} add up to more than 1: lower one of them"
        )
    _at_least("masking.span_longest", config.span_longest, 1)
    if config.uniform_rate and config.final_rate:
        raise UserError(
            f"--config.masking.final_rate={config.final_rate} is of a rate that all examples share:"
            " set it to 0, or masking.uniform_rate=False"
        )
    strategy = config.strategy
    _at_least("masking.smoothing", config.smoothing, 0)
    if config.smoothing and strategy is not MaskStrategy.TOKENS:
        raise UserError(
            f"--config.masking.smoothing={config.smoothing:g} weighs single tokens, and"
            f" masking.strategy={strategy.value}: set smoothing to 0, or masking.strategy=tokens"
        )
    if encoder.causal and strategy is not MaskStrategy.NEXT_TOKEN:
        raise UserError(
            f"--config.masking.strategy={strategy.value} hides what a causal encoder cannot look"
            " ahead for: set masking.strategy=next_token, or encoder.causal=False"
        )
    for name in ("uniform_rate", "weigh_by_rate", "final_rate"):
        value = getattr(config, name)
        if strategy is MaskStrategy.NEXT_TOKEN and value:
            raise UserError(
                f"--config.masking.{name}={value}: masking.strategy=next_token hides nothing: leave"
                " it out"
            )
    if strategy is MaskStrategy.NEXT_TOKEN and not encoder.causal:
        raise UserError(
            "--config.masking.strategy=next_token asks for tokens that the encoder can see: set"
            " encoder.causal=True, or another masking.strategy"
        )


def _validate_phase_masking(config: PretrainConfig) -> None:
    """Refuses a phase's rate of masking where none is read."""
    masking = config.masking
    for number, phase in enumerate(config.phases):
        field = f"--config.phases[{number}].mask_rate={phase.mask_rate:g}"
        if phase.mask_rate and masking.strategy is MaskStrategy.NEXT_TOKEN:
            raise UserError(f"{field}: masking.strategy=next_token hides nothing: leave it out")
        if phase.mask_rate and masking.uniform_rate:
            raise UserError(
                f"{field}: with masking.uniform_rate=True each example draws its own: leave it out,"
                " or set masking.uniform_rate=False"
            )


_FINETUNE_DEFAULTS = FinetuneConfig()

# What task=vectors has no use for.
_OF_HEADS = ("teacher", "keep_head", "encoder_mode", "pooling", "pooler", "feature_layers")
_OF_HEADS += ("head_learning_rate",)


def _validate_finetuning(config: FinetuneConfig) -> None:
    data = config.data
    for name in ("train", "dev"):
        if not getattr(data, name).strip(" ,"):
            raise UserError(f"--config.data.{name} is not set: name a labelled file")
    if data.text_pair_column == data.text_column:
        raise UserError(
            f"--config.data.text_pair_column={data.text_pair_column} is the text_column as well:"
            " name two columns, or leave it out"
        )
    _at_least("data.length", data.length, 8)
    for name in ("stride", "question_length", "answer_length"):
        _at_least(f"data.{name}", getattr(data, name), 1)
    for name in ("examples", "examples_per_class", "max_examples_per_row"):
        _at_least(f"data.{name}", getattr(data, name), 0)
    if data.examples and data.examples_per_class:
        raise UserError(
            f"--config.data.examples={data.examples} and"
            f" data.examples_per_class={data.examples_per_class} are two ways to draw: set one to 0"
        )
    if data.examples_per_class and config.task is not TaskKind.CLASSIFICATION:
        raise UserError(
            f"--config.data.examples_per_class={data.examples_per_class} is of classes of whole"
            f" inputs, which task={config.task.value} has not: use data.examples"
        )
    for name in ("epochs", "eval_epochs", "seeds", "feature_layers"):
        _at_least(name, getattr(config, name), 1)
    for name in ("patience", "fresh_layers", "head_learning_rate"):
        _at_least(name, getattr(config, name), 0)
    for name in ("dropout_rate", "warmup_share", "label_smoothing"):
        _rate(name, getattr(config, name), below_one=True)
    if data.unlabelled and not config.teacher:
        raise UserError(
            f"--config.data.unlabelled={data.unlabelled} needs answers to learn: name a teacher by"
            " --config.teacher, or leave it out"
        )
    for name in ("teacher_weight", "temperature"):
        value, default = getattr(config, name), getattr(_FINETUNE_DEFAULTS, name)
        if value != default and not config.teacher:
            raise UserError(
                f"--config.{name}={value} is of a teacher, and none is named: set --config.teacher,"
                " or leave it out"
            )
    _positive("teacher_weight", config.teacher_weight)
    _rate("teacher_weight", config.teacher_weight)
    _positive("temperature", config.temperature)
    _rate("layer_decay", config.layer_decay)
    _positive("layer_decay", config.layer_decay)
    if config.encoder_mode is not EncoderMode.FULL:
        for name, off in (("layer_decay", 1.0), ("fresh_layers", 0)):
            if getattr(config, name) != off:
                raise UserError(
                    f"--config.{name}={getattr(config, name)} needs an encoder that is trained:"
                    f" set --config.encoder_mode=full, or {name}={off}"
                )
    _validate_vectors(config)
    if config.task not in (TaskKind.CLASSIFICATION, TaskKind.TAGS):
        for name in ("label_smoothing", "class_weights"):
            if getattr(config, name):
                raise UserError(
                    f"--config.{name}={getattr(config, name)} is of classes, which"
                    f" task={config.task.value} has not: leave it out"
                )
    if config.teacher and config.task is TaskKind.REGRESSION:
        if config.temperature != _FINETUNE_DEFAULTS.temperature:
            raise UserError(
                f"--config.temperature={config.temperature:g} is of probabilities, and"
                " task=regression has numbers: leave it out"
            )
    if config.fresh_layers and not config.transfer:
        raise UserError(
            f"--config.fresh_layers={config.fresh_layers}: with transfer=False all layers begin"
            " anew: set fresh_layers=0, or transfer=True"
        )
    if config.keep_head and not config.transfer:
        raise UserError("--config.keep_head=True needs transfer=True: set one of them")
    if config.seed + config.seeds > 2**32:
        raise UserError(f"--config.seeds={config.seeds} go beyond {2**32 - 1}: lower seed")


def _validate_vectors(config: FinetuneConfig) -> None:
    """Checks the settings of task=vectors, which no other task reads."""
    vectors, loss = config.vectors, config.vectors.loss
    if config.task is not TaskKind.VECTORS:
        changed = [("vectors." + name, value) for name, value in _changed(vectors, VectorsConfig())]
        if config.data.negative_columns:
            changed.append(("data.negative_columns", config.data.negative_columns))
        for name, value in changed:
            raise UserError(
                f"--config.{name}={value} is of vectors, and this is task={config.task.value}: set"
                " --config.task=vectors, or leave it out"
            )
        return
    _positive("vectors.temperature", vectors.temperature)
    _positive("vectors.highest_score", vectors.highest_score)
    vector_widths(vectors.widths)
    for name in _OF_HEADS:
        value, default = getattr(config, name), getattr(_FINETUNE_DEFAULTS, name)
        if value != default:
            raise UserError(
                f"--config.{name}={_plain(value)}: task=vectors trains the encoder itself, without"
                " a head or a teacher: leave it out"
            )
    data, is_contrastive = config.data, loss in (VectorLoss.CONTRASTIVE, VectorLoss.SIMCSE)
    if not data.text_pair_column:
        raise UserError(
            "--config.data.text_pair_column is not set: vectors are scored on pairs of texts: name"
            " the column of the second ones"
        )
    if not is_contrastive and not data.label_column:
        raise UserError(
            f"--config.data.label_column is not set, and vectors.loss={loss.value} learns scores:"
            " name their column, or set vectors.loss=contrastive"
        )
    if data.negative_columns and loss is not VectorLoss.CONTRASTIVE:
        raise UserError(
            f"--config.data.negative_columns={data.negative_columns} is of vectors.loss="
            f"contrastive, and this is {loss.value}: set one of the two"
        )
    compares = loss is VectorLoss.COSENT or (is_contrastive and not data.negative_columns)
    if compares and config.batch_size == 1:
        others = "pairs" if loss is VectorLoss.COSENT else "texts"
        raise UserError(
            f"--config.batch_size=1: vectors.loss={loss.value} compares with the other {others} of"
            " the batch: set it to 2 or more"
        )
    if loss is VectorLoss.SIMCSE and not config.dropout_rate:
        raise UserError(
            "--config.dropout_rate=0: vectors.loss=simcse sees each text twice, and dropout is all"
            " that differs: set it above 0"
        )
    if vectors.symmetric and not is_contrastive:
        raise UserError(
            f"--config.vectors.symmetric=True is of queries and their right texts, and vectors.loss"
            f"={loss.value} has none: leave it out"
        )
    if vectors.highest_score != 1 and loss is not VectorLoss.COSINE:
        raise UserError(
            f"--config.vectors.highest_score={vectors.highest_score:g} is of vectors.loss=cosine,"
            f" and this is {loss.value}: leave it out"
        )


def _changed(config: Any, default: Any) -> list[tuple[str, Any]]:
    """Returns (name, plain value) of each field that differs."""
    ours, theirs = dict(flatten(config)), dict(flatten(default))
    return [(name, value) for name, value in ours.items() if value != theirs[name]]


def check_widths(config: VectorsConfig, encoder: EncoderConfig) -> None:
    """Raises UserError if a vector is to be wider than the encoder makes it."""
    for width in vector_widths(config.widths):
        if width > encoder.width:
            raise UserError(
                f"--config.vectors.widths={config.widths}: the vectors of the model are"
                f" {encoder.width} wide: leave {width} out"
            )


def _validate_optimizer(config: OptimizerConfig) -> None:
    _positive("optimizer.learning_rate", config.learning_rate)
    _positive("optimizer.epsilon", config.epsilon)
    _at_least("optimizer.warmup_steps", config.warmup_steps, 0)
    _at_least("optimizer.weight_decay", config.weight_decay, 0)
    _at_least("optimizer.clip_norm", config.clip_norm, 0)
    for name in ("beta1", "beta2"):
        _rate(f"optimizer.{name}", getattr(config, name), below_one=True)
    _positive("optimizer.decay_share", config.decay_share)
    _rate("optimizer.decay_share", config.decay_share)
    for name in ("initial_share", "final_share"):
        _rate(f"optimizer.{name}", getattr(config, name))
    _rate("optimizer.momentum", config.momentum, below_one=True)
    _positive("optimizer.update_rms", config.update_rms)
    if config.schedule is Schedule.OF_RUN:
        others = ", ".join(each.value for each in Schedule if each is not Schedule.OF_RUN)
        raise UserError(f"--config.optimizer.schedule=of_run is of phases: choose one of {others}")


def _fits_position_table(name: str, length: int, max_length: int) -> None:
    if length > max_length:
        raise UserError(
            f"--config.{name}={length} is longer than the position table"
            f" (encoder.max_length={max_length}): lower the one or raise the other"
        )


def check_task_length(length: int, encoder: EncoderConfig) -> None:
    """Checks a task's row length against the encoder that a checkpoint brings."""
    _fits_position_table("data.length", length, encoder.max_length)


def _at_least(name: str, value: float, least: float) -> None:
    if not least <= value < math.inf:
        finite = " and finite" if value == math.inf else ""
        raise UserError(f"--config.{name}={value} must be at least {least}{finite}")


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        finite = " and finite" if value == math.inf else ""
        raise UserError(f"--config.{name}={value} must be above 0{finite}")


def _rate(name: str, value: float, *, below_one: bool = False) -> None:
    if not 0 <= value <= 1 or (below_one and value == 1):
        bounds = "from 0 to below 1" if below_one else "from 0 to 1"
        raise UserError(f"--config.{name}={value} must be a rate {bounds}")


def _divisors(number: int, most: int) -> list[int]:
    return [n for n in range(1, most + 1) if number % n == 0]


def item_type(field_type: Any) -> type | None:
    """Returns the type of a list's items; None for what is no list."""
    return typing.get_args(field_type)[0] if typing.get_origin(field_type) is list else None


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (name, plain value) of each leaf: ('encoder.norm', 'post'), ('phases[0].share', 1)."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list):
            for number, each in enumerate(value):
                yield from flatten(each, f"{name}[{number}].")
        else:
            yield name, _plain(value)


def to_dict(config: Any) -> dict[str, Any]:
    """Returns nested plain dictionaries, ready for JSON; `from_dict` is the inverse."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.value if isinstance(value, enum.Enum) else value


def from_dict(config_type: type[AnyConfig], values: dict[str, Any]) -> AnyConfig:
    """Builds a config from what `to_dict` returned, now or in an earlier version.

    A field that the earlier version had not takes its default, which is what that version did; one
    that has another name now is read by the former one, too.

    Raises:
      UserError: for an unknown field.
    """
    types = typing.get_type_hints(config_type)
    if not isinstance(values, dict):
        raise UserError(f"stored {config_type.__name__} is no dictionary")
    values = {_FORMER_NAMES.get(name, name): value for name, value in values.items()}
    if unknown := sorted(values.keys() - types.keys()):
        raise UserError(
            f"stored {config_type.__name__} is not of this version of bert_jax, which knows no"
            f" {', '.join(unknown)}: use the version that wrote it"
        )
    return config_type(**{name: _typed(types[name], value) for name, value in values.items()})


def _typed(wanted: Any, value: Any) -> Any:
    if item := item_type(wanted):
        return [_typed(item, each) for each in value]
    if dataclasses.is_dataclass(wanted):
        return from_dict(wanted, value)  # pyright: ignore[reportArgumentType]
    return wanted(value) if issubclass(wanted, enum.Enum) else value


def differences(stored: Any, given: Any) -> list[str]:
    """Names the fields that decide the result and differ, as 'field: stored -> given'."""
    theirs, ours = dict(flatten(stored)), dict(flatten(given))
    return [
        f"{name}: {json.dumps(theirs.get(name))} -> {json.dumps(ours.get(name))}"
        for name in theirs | ours
        if theirs.get(name) != ours.get(name) and name not in FREE_FIELDS
    ]
