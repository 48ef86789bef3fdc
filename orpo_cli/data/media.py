"""Media of a row: images, audio and video, which a text model cannot be trained on."""

from __future__ import annotations

from typing import Any

from orpo_cli.data.pair import RowRejected

MEDIA_COLUMNS = ("image", "images", "audio", "audios", "video", "videos")
MEDIA_PARTS = ("image", "image_url", "input_image", "audio", "input_audio", "audio_url", "video", "video_url", "file")
MEDIA_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".avif", ".svg",
    ".wav", ".mp3", ".flac", ".ogg", ".m4a", ".opus", ".mp4", ".avi", ".mov", ".mkv", ".webm",
)  # fmt: skip
FILE_KEYS = ("bytes", "path", "url", "image", "array")
REMEDY = "Remove such rows from the data, or train a model for images with another tool: this one trains text only."


def check_text_only(row: dict[str, Any]) -> None:
    """Raise RowRejected where a column of the row has an image, audio or video."""
    for name, value in row.items():
        if str(name).lower() in MEDIA_COLUMNS and _has_media(value):
            raise not_text(str(name))


def not_text(where: str) -> RowRejected:
    """Rejection of a row that has media at ``where``."""
    return RowRejected("not_text", f"{where} holds an image, audio or video", REMEDY)


def _has_media(value: Any) -> bool:
    """Whether the value is a file's content or path. A column of that name may hold other texts, such as a container image."""
    if isinstance(value, list):
        return any((isinstance(item, str) and bool(item.strip())) or _has_media(item) for item in value)
    if isinstance(value, str):
        text = value.strip().lower()
        path = text.partition("?")[0]
        return text.startswith(("data:image", "data:audio", "data:video")) or path.endswith(MEDIA_SUFFIXES)
    if isinstance(value, dict):
        return any(value.get(key) is not None and value.get(key) != "" for key in FILE_KEYS)
    return isinstance(value, bytes) and bool(value)
