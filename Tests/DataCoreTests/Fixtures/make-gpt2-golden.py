"""Writes gpt2-golden.json: what three independent encoders give for real text and for hard short strings.

    pip install regex tiktoken tokenizers
    python make-gpt2-golden.py DATA

DATA is the folder with `text/` and `tokenizer/`. The encoders are the twenty lines below over `regex`, tiktoken with the
rank file, and Hugging Face's tokenizers with the vocabulary and the merges. The golden values are written only where all
three agree.
"""

import hashlib
import json
import pathlib
import random
import struct
import sys

import regex
import tiktoken
import tiktoken.load
import tokenizers

PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

EXAMPLES = [
    "",
    " ",
    "a",
    "Hello, world!",
    "I'm you're he's we've they'll I'd don't",
    "I'M YOU'RE DON'T 'tis 'S 'twas rock'n'roll '' 'l 'r 'v",
    "\"'s\" ('s) ...'s 's's",
    "  two  three   four    ",
    "\n\n\nline\n  indented\n\ttab\t\tend\n",
    "a\r\nb\rc\u00a0d\u2003e\u3000f\u2028g\u0085h",
    "\u200bzero\u200dwidth\ufeffmark\u180e",
    "\x1c\x1d\x1e\x1f\x00\x7f",
    "12345 3.14159 1,000,000 \u00bd \u2167 \u0664\u0662 \u4e00\u4e8c 2\u00b2",
    "naïve café \u0065\u0301 Ångström straße İstanbul",
    "日本語のテキスト、漢字とかな。全角　空白",
    "한국어 텍스트와 조합 \u1112\u1161\u11ab",
    "Русский текст, ελληνικά, עברית, العربية ١٢٣",
    "हिन्दी में पाठ ภาษาไทยไม่มีช่องว่าง",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd \u2764\ufe0f",
    "\U00020000\U0001d504\U0001d7d8 \U000e0041",
    "<|endoftext|>",
    "def f(x):\n    return x ** 2  # square\n",
    "https://example.org/?q=a+b&c=%20#x",
    "a" * 300,
    "=" * 100 + " " * 70 + "x",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
]


# One of each kind that the word pattern tells apart, and of each UTF-8 length.
HARD_CHARACTERS = [
    *"  \n\t''" "'stmdrevlSaZ09.,!-",
    *"\u00a0\u2003\u3000\u0085\u200b\u00e9\u0301\u00bd\u4e00\u3042\u0664\u2019",
    *"\U0001f600\U0001d504\U0001d7d8\U000e0041\x1c\x00",
]


def hard_strings():
    draw = random.Random(20240229)
    return ["".join(draw.choices(HARD_CHARACTERS, k=draw.randrange(1, 24))) for _ in range(300)]


def printable_alphabet():
    printable = list(range(0x21, 0x7F)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


class Reference:
    def __init__(self, vocabulary_path, merges_path):
        self.ids = json.loads(vocabulary_path.read_text(encoding="utf-8"))
        lines = merges_path.read_text(encoding="utf-8").split("\n")[1:]
        self.ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(lines) if line}
        self.alphabet = printable_alphabet()
        self.pattern = regex.compile(PATTERN)
        self.cache = {}

    def encode(self, text):
        return [i for word in self.pattern.findall(text) for i in self.word(word)]

    def word(self, word):
        if word not in self.cache:
            parts = [self.alphabet[byte] for byte in word.encode("utf-8")]
            while len(parts) > 1:
                ranked = [(self.ranks.get(pair, 1 << 30), at) for at, pair in enumerate(zip(parts, parts[1:]))]
                rank, at = min(ranked)
                if rank == 1 << 30:
                    break
                parts[at : at + 2] = [parts[at] + parts[at + 1]]
            self.cache[word] = [self.ids[part] for part in parts]
        return self.cache[word]


def main(data):
    folder = data / "tokenizer"
    vocabulary, merges = folder / "gpt2-encoder.json", folder / "gpt2-vocab.bpe"
    reference = Reference(vocabulary, merges)
    ranks = tiktoken.load.load_tiktoken_bpe(str(folder / "gpt2.tiktoken"))
    by_ranks = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    by_merges = tokenizers.ByteLevelBPETokenizer(str(vocabulary), str(merges), add_prefix_space=False)

    def encode(text):
        ids = reference.encode(text)
        assert ids == by_ranks.encode_ordinary(text), "tiktoken differs: " + text[:60]
        assert ids == by_merges.encode(text).ids, "tokenizers differs: " + text[:60]
        return ids

    files = {}
    for path in sorted((data / "text").iterdir()):
        ids = encode(path.read_bytes().decode("utf-8"))
        digest = hashlib.sha256(struct.pack(f"<{len(ids)}i", *ids)).hexdigest()
        files[path.name] = {"count": len(ids), "sha256": digest}
        print(path.name, files[path.name])
    examples = [{"text": text, "ids": encode(text)} for text in EXAMPLES]
    words = []
    for text in EXAMPLES + hard_strings():
        encode(text)  # the three must agree on these as well
        words.append({"text": text, "lengths": [len(word.encode("utf-8")) for word in reference.pattern.findall(text)]})
    target = pathlib.Path(__file__).with_name("gpt2-golden.json")
    lines = ['{"pattern": ' + json.dumps(PATTERN) + ",", ' "examples": [']
    lines.append(",\n".join("  " + json.dumps(example) for example in examples))
    lines.append(' ],\n "words": [')
    lines.append(",\n".join("  " + json.dumps(example) for example in words))
    lines.append(' ],\n "files": {')
    lines.append(",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in files.items()))
    lines.append(" }}")
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
