"""Video files and folders of images as streams of RGB frames."""
