"""Reference implementations that tests compare with: plain, slow, written from the papers' equations."""
