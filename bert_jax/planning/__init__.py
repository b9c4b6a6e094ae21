"""Memory, time and cost of a run on devices that need not exist, from its compiled step.

In: a config and a topology such as v5e:4x4. `abstract_steps` builds the run's train step with
abstract arrays (`ShapeDtypeStruct`: token_ids [B, T] and so on), `compile_ahead` compiles it and
returns a `Footprint` in bytes and FLOPs per device, `roofline` turns that into seconds, `advice`
finds changes that make a run fit, and `report` prints it. `hlo` and `hlo_costs` read the text of a
compiled program. Read `compile_ahead.py` first; the driver is `bert_jax/plan.py`.
"""
