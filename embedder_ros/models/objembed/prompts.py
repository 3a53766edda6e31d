# SPDX-License-Identifier: Apache-2.0
"""Every string ObjEmbed was trained to read, byte for byte (MODELS.md 1.7), and its token ids.

A trailing space is part of a string. What a user types can never become one of the model's own tokens: template and
user text are tokenised with special tokens switched off, and only the template's own are put in by id.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from embedder_ros.models.objembed.config import SpecialTokens
from embedder_ros.types import UserError

DET = 'Detect all objects in the image by identifying the common visual features of their respective classes. '
REC = (
    'Locate the specific object being described by analyzing its unique instance-level attributes, its spatial '
    'position, and its relationship with surrounding objects. '
)
NONE = 'Represent each objects and the whole image into a single token. '
GENERAL = 'Represent each object into a single token. '

# One of a pool is drawn per training image; GENERAL where task prompts are off.
DET_POOL = (
    DET,
    'Localize each object by matching it to the archetypal visual form of its category. ',
    'Detect all objects in the image by recognizing the shared visual attributes of their respective categories. ',
    'Identify every object in the scene based on the core visual characteristics that define its class. ',
    'Locate all objects by using the fundamental visual properties common to their object class. ',
    'Perform object detection by referencing the shared visual patterns that characterize each class. ',
    'Find every object in the picture by matching it to the defining visual traits of its category. ',
    'Identify all objects present by their class-defining visual features, which are common across all instances. ',
    'Detect every object based on the visual essence shared by all members of its class. ',
    'Localize each object in the image according to the general visual blueprint of its category. ',
    'Identify all objects by applying the common visual criteria that define their respective classes. ',
)
REC_POOL = (
    REC,
    (
        'Identify the single instance mentioned in the text by considering its distinct visual features, its location '
        'within the scene, and its context relative to nearby items. '
    ),
    (
        "Ground the referring expression by pinpointing the object that matches the description's details regarding "
        'its appearance, placement, and interaction with other elements. '
    ),
    (
        'Find the objects that correspond to the given description, paying close attention to its specific details, '
        'its position, and how it relates to its neighbors. '
    ),
    (
        'Disambiguate and find the correct object by carefully examining the provided description of its '
        'instance-specific properties, its coordinates in the image, and its spatial arrangement with other objects. '
    ),
    (
        'Resolve the reference by identifying the object that uniquely matches the specified details, including its '
        'appearance, its place in the scene, and its connections to adjacent objects. '
    ),
    (
        'Pinpoint the described instance by evaluating its specific visual traits, its spatial context, and its '
        'relational properties with other objects in the image. '
    ),
    (
        'To locate the referred object, you must analyze three things from the description: 1) its unique visual '
        'details (e.g., color, texture), 2) its precise location, and 3) its relationship to the objects around it. '
    ),
    (
        'Find the specific object the text is referring to by synthesizing information about its individual '
        'characteristics, its location, and its interactions within the scene. '
    ),
    (
        'Based on the textual description, identify the target object by considering its instance-level appearance, '
        'its absolute and relative position, and its interplay with the surrounding environment. '
    ),
)
HUMANREF_POOL = (
    (
        'Locate the specific person being described by analyzing his unique appearance, his spatial position, and his '
        'action. '
    ),
    (
        'Determine which person matches the description by analyzing their physical features, spatial relationship to '
        'others, and what they are doing. '
    ),
    (
        'Find the target person in the scene based on their unique attire, position relative to objects, and specific '
        'action they are performing. '
    ),
    (
        'Locate the person being referred to by combining clues about their appearance, where they are standing, and '
        'the action they are engaged in. '
    ),
    (
        'Pinpoint the exact individual by evaluating their facial characteristics, proximity to key landmarks, and '
        'visible behavior. '
    ),
    (
        'Match the description to the correct person by assessing their height, clothing color, location in the '
        'frame, and dynamic motion. '
    ),
    (
        'Single out the described person by integrating visual cues such as hairstyle, spatial context, and '
        'interaction with surrounding objects or people. '
    ),
    (
        'Detect the person of interest using a combination of their outfit, position in the environment, and whether '
        'they are moving or stationary. '
    ),
    (
        'Trace the individual who fits the profile: analyze appearance details, relative position (e.g., left/right, '
        'front/back), and active behavior. '
    ),
    (
        'Select the correct person from the group by cross-referencing their described look, exact location, and '
        'current action in the scene. '
    ),
)
# Images of people known by name. Here to repeat the training; nothing offers it on a robot.
CELEBRITY_POOL = (
    'Identify the famous person depicted in this image ',
    'Recognize and name the public figure featured in this picture. ',
    'Please provide the name of the well-known individual in this image. ',
    'Identify all recognizable celebrities in this image. ',
    'Name the celebrity whose face is most prominent in this picture. ',
    'State the name of the celebrity shown. ',
)

# Names of the task prompts; part of the model id, since their embeddings are different spaces in practice.
TASKS = {'rec': REC, 'det': DET, 'none': NONE}

# The picture that is the question, in the query of image to image: no task and no objects.
EXEMPLAR = 'The coarse global image is <global>. The detailed global image is <global>. '

OBJECT_TEXT = 'Find an object that matches the given caption. {} <local_text>'
IMAGE_TEXT = 'Find an image that matches the given caption. {} <global_text>'
# The authors' REIRCOCO and ILIAS evaluations read an object text from the image wording; for parity with their numbers.
IMAGE_WORDED_OBJECT_TEXT = 'Find an image that matches the given caption. {} <local_text>'

OBJECT, GLOBAL, LOCAL_TEXT, GLOBAL_TEXT = '<object>', '<global>', '<local_text>', '<global_text>'
IMAGE_PAD = '<|image_pad|>'
_SPECIAL = ('<|im_start|>', '<|im_end|>', '<|vision_start|>', '<|vision_end|>', IMAGE_PAD)
_OWN = re.compile('(' + '|'.join(re.escape(t) for t in (*_SPECIAL, OBJECT, GLOBAL, LOCAL_TEXT, GLOBAL_TEXT)) + ')')


def objects_text(count: int, use_two_tokens: int = 2) -> str:
    """What follows the task prompt: a place for each object and for the image as a whole.

    Args:
        count: number of objects, from 0.
        use_two_tokens: the checkpoint's flag, 0, 1 or 2 (released: 2).
    """
    objects = ''.join(f'Object {index}: <object><object>. ' for index in range(count))
    if use_two_tokens == 2:
        return f'The coarse global image is <global>. {objects} The detailed global image is <global>. '
    first = 'The global image is <global>. ' if use_two_tokens == 1 else ''
    return f'{first}{objects}The global image is <global>'


def exemplar_text(use_two_tokens: int = 2) -> str:
    """The text beside an image that is itself the question."""
    return EXEMPLAR if use_two_tokens == 2 else objects_text(0, use_two_tokens)


def chat(text: str, image_tokens: int = 0) -> str:
    """One user turn as the Qwen3-VL chat template writes it, stripped: no system prompt, no generation prompt."""
    image = f'<|vision_start|>{IMAGE_PAD * image_tokens}<|vision_end|>' if image_tokens else ''
    return f'<|im_start|>user\n{image}{text}<|im_end|>'


class PromptTokenizer:
    """Prompts to token ids, equal to tokenising the whole chat string wherever no user text names a special token.

    Safe to call from several threads.

    Args:
        folder: holds tokenizer.json.

    Attributes:
        image_pad: id of the token that stands for one image cell.
        padding: id that may stand where the attention mask is 0.
        special: ids of ObjEmbed's own tokens, as the checkpoint's tokenizer numbers them.

    Raises:
        UserError: the file is missing or damaged, or lacks a token of ObjEmbed.
    """

    def __init__(self, folder: Path) -> None:
        self._tokens = _read(folder / 'tokenizer.json')
        names = (*_SPECIAL, OBJECT, GLOBAL, LOCAL_TEXT, GLOBAL_TEXT)
        self._ids = {name: self._id(name, folder) for name in names}
        self.image_pad, self.padding = self._ids[IMAGE_PAD], self._ids['<|im_end|>']
        self.special = SpecialTokens(*(self._ids[name] for name in (OBJECT, GLOBAL, LOCAL_TEXT, GLOBAL_TEXT)))

    def image(self, text: str, image_tokens: int) -> list[int]:
        """The turn of an image of so many tokens; `text` is one of this module's."""
        ids = self._encode(chat(text, 1))
        place = ids.index(self.image_pad)
        return ids[:place] + [self.image_pad] * image_tokens + ids[place + 1 :]

    def text(self, template: str, caption: str) -> list[int]:
        """The turn of a caption in one of the text templates."""
        return self._encode(chat(template), caption)

    def _encode(self, template: str, caption: str = '') -> list[int]:
        """Token ids of a template; its own special tokens by id, everything between them as plain text."""
        ids: list[int] = []
        for piece in filter(None, _OWN.split(template)):
            known = self._ids.get(piece)
            plain = piece.replace('{}', caption)
            ids += self._tokens.encode(plain, add_special_tokens=False).ids if known is None else [known]
        return ids

    def _id(self, name: str, folder: Path) -> int:
        number = self._tokens.token_to_id(name)
        if number is None:
            raise UserError(
                f'{folder / "tokenizer.json"} has no token {name}: this is not the folder of an ObjEmbed '
                "checkpoint; set parameter 'model' to a folder with ObjEmbed's tokenizer and weights"
            )
        return int(number)


def _read(path: Path) -> Any:
    """A tokenizer to which every added token, also one no prompt uses, is only letters."""
    from tokenizers import Tokenizer

    if not path.is_file():
        raise UserError(f'{path} is missing; fetch every file of the checkpoint, tokenizer included')
    try:
        described = json.loads(path.read_text(encoding='utf-8'))
        for token in described['added_tokens']:
            token['special'] = True  # else encode_special_tokens leaves it a token
        tokenizer = Tokenizer.from_str(json.dumps(described))
    except Exception as error:  # tokenizers raises plain Exception
        raise UserError(f'{path} is damaged ({error}); fetch it again') from error
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()  # a training script may have saved both
    tokenizer.no_padding()
    return tokenizer
