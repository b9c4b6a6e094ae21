"""Task data: labelled files in, packed batches with labels out; and scores of predictions.

`tables`, `tagged_files` and `question_files` read files; `classes`, `tags` and `spans` tokenise
them as splits (`splits.Split`), which also score the model's outputs and yield predictions.
`batches` and `rows` write the inputs as [R, T] rows; labels are [R, N] for whole inputs and [R, T]
for tokens.

Read `splits.py` first, then `classes.py`.
"""
