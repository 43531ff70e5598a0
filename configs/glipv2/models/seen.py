"""Boxes of each name in the train splits that the default was trained on; `cat` and `zebra` were held out."""

SEEN = {
    "person": 671, "bicycle": 35, "car": 133, "motorcycle": 11, "airplane": 14, "bus": 20, "train": 7, "truck": 27,
    "boat": 22, "traffic light": 37, "fire hydrant": 4, "stop sign": 7, "parking meter": 6, "bench": 27, "bird": 21,
    "dog": 22, "horse": 9, "sheep": 13, "cow": 26, "elephant": 24, "bear": 5, "giraffe": 12, "backpack": 29,
    "umbrella": 36, "handbag": 37, "tie": 9, "suitcase": 16, "frisbee": 8, "skis": 8, "snowboard": 10,
    "sports ball": 15, "kite": 12, "baseball bat": 10, "baseball glove": 13, "skateboard": 13, "surfboard": 7,
    "tennis racket": 9, "bottle": 185, "wine glass": 65, "cup": 118, "fork": 29, "knife": 51, "spoon": 68,
    "bowl": 88, "banana": 22, "apple": 14, "sandwich": 18, "orange": 20, "broccoli": 19, "carrot": 57, "hot dog": 5,
    "pizza": 14, "donut": 27, "cake": 17, "chair": 125, "couch": 12, "potted plant": 38, "bed": 13,
    "dining table": 63, "toilet": 25, "tv": 22, "laptop": 24, "mouse": 19, "remote": 14, "keyboard": 21,
    "cell phone": 17, "microwave": 14, "oven": 32, "toaster": 3, "sink": 42, "refrigerator": 18, "book": 125,
    "clock": 17, "vase": 21, "scissors": 9, "teddy bear": 30, "hair drier": 2, "toothbrush": 16, "fish": 1961,
    "jellyfish": 385, "penguin": 330, "puffin": 175, "shark": 259, "starfish": 78, "stingray": 136,
    "red blood cell": 2381, "white blood cell": 214, "platelet": 209, "raccoon": 169, "pothole": 356,
}
