"""The one media room: every decoder and encoder of the product is called from here.

Nothing outside this package opens a video, decodes an image or starts ffmpeg. Inputs come
from strangers: each file is sniffed before a library sees it, sizes are bounded before pixels
are allocated, and what may crash or hang runs in a child process (:mod:`.isolated`).

Conventions: RGB uint8 ``(H, W, 3)``; sizes and boxes in *displayed* pixels (after rotation and
sample aspect ratio); times are integer microseconds from the first frame of the video stream.

Import the modules themselves (``from s2v.datapipe.base.media import decode``); this file
imports nothing, so that :mod:`.errors` stays free of OpenCV and PyAV.
"""
