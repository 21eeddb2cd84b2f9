"""AS-ES learning, from a line of JSON to a scored chain of thought. Read the files in the method's
order:

 1. data              what an example is; files in, splits out
 2. synthetic         the embedded tasks, whose pieces know their true roles
 3. tokenizer         text to ids and back, exactly
 4. segmentation      chain → pieces → labels → segments; entropy
 5. pairs             segments → (context, next segment); batches
 6. attention         scores with a relative position bias: the reference, and who computes it
 7. triton_attention  the same in fused kernels (may be skipped at first)
 8. model             the encoder-decoder
 9. training          one loop for every sub-model; checkpoints
10. scoring           token entropies under a direct model
11. decoding          one segment; then the iterative loop
12. metrics           answers, BLEU, ROUGE
13. pretrained        T5-family checkpoints in and out
14. runs, cli         what the commands share: a run's folder, flags and mistakes

Words: a *chain* (of thought) is an answer with its reasoning; a *piece* is a clause of it; a
*segment* is a run of pieces with one label. *ES*, extractive, restates the context; *AS*,
abstractive, derives something new. *ESM* and
*ASM* are the two models of the dual path (``dsm``), one for each label; *USM* is the one model of
the unified path (``usm``); *direct* is the baseline, question → chain. A *context* is the question
with the segments so far.
"""
