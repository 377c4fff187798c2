"""From a folder of shards to batches.

``index``    which samples may be trained on, and why the others may not
``decode``   a clip's training windows as pixels
``references``  the three forms of a reference, brought to the video's size
``reader``   one sample as pixels and text
``features`` one sample as latents and tokens, cached under the encoders' fingerprint
``mix plan`` the one global order of samples
``collate``  samples to a batch
"""
