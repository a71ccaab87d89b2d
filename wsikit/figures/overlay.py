def draw_overlay(rgb, mask, tiles_xywh=None, *, title="", lines=(), ok=True): return rgb
def draw_placard(title, lines):
    import numpy as np
    return np.zeros((200,200,3),np.uint8)
