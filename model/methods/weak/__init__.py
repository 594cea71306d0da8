"""Methods that learn from bags of clips: a video's label, or a click in it, is all they see."""
