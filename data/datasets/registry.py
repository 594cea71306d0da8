"""The datasets by name. To add one: a module with its command, and a line here."""

DATASETS = {
    "avenue": "data.datasets.avenue:avenue_command",
    "folders": "data.datasets.folders:folders_command",
    "lad": "data.datasets.lad:lad_command",
    "ped1": "data.datasets.ucsd:ped1_command",
    "ped2": "data.datasets.ucsd:ped2_command",
    "shanghaitech": "data.datasets.shanghaitech:shanghaitech_command",
    "ucf-crime": "data.datasets.ucf_crime:ucf_crime_command",
    "xd-violence": "data.datasets.xd_violence:xd_violence_command",
}
"""Name -> module and the command `feat data NAME`, imported when it is asked for."""
