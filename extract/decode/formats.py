"""Which containers ffmpeg may open: those that hold their frames themselves.

A file that is a playlist, a manifest or a script in disguise would have ffmpeg open what it names:
other people's files, or an address in the network. ffmpeg recognises a format by the content, not
by the name, so every format that names other files has to be kept out, and the only list that
stays complete when ffmpeg learns a new one is that of what may be opened.
"""

# ffmpeg's names; those that a build does not know do no harm
DEMUXERS = (
    # what the suffixes in `data.videos` stand for
    *("asf", "avi", "dv", "flv", "gif", "h264", "hevc", "ivf", "m4v", "matroska", "mov", "mpeg"),
    *("mpegts", "mpegvideo", "mxf", "nut", "ogg", "rm", "yuv4mpegpipe"),
    # Motion JPEG without a container: one picture after the other in the file itself
    *("jpeg_pipe", "mjpeg"),
    # what surveillance recorders and network cameras write under such names
    *("dhav", "h261", "h263", "hxvs", "ifv", "luodat", "mpjpeg", "mxg", "nc", "obu", "vc1", "vvc"),
)
