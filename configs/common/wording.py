"""Words of captions in which the names of the shared small sets are asked for: set -> template for all names, or name -> template.

The phrase stands in braces, "{}" where it stays what it is; the words around it are only context. Those of aquarium, but for its
blanks, and of pothole are GLIP's, from its configs for ODinW (microsoft/GLIP); the others are ours. coco_mini keeps its bare
names: words around each of 80 names would need several prompts.
"""

SHARED_WORDING = {
    "aquarium": {
        "penguin": "{penguin}, which is black and white",
        "puffin": "{puffin} with orange beaks",
        "stingray": "{stingray} which is flat and round",
    },
    "bccd": "{} under a microscope",
    "coco_mini": "{}",
    "deeppcb": "{} on a circuit board",
    "pothole": {"pothole": "there are some {holes} on the road"},
    "raccoon": "there is a {} in the yard",
}
