"""What columns are called, in the languages that data comes in. One word each, lower case."""

from __future__ import annotations

_INPUT = """
input prompt question text message query body content comment review sentence email mail request utterance document article
ticket description source passage note complaint post tweet statement problem transcript context instruction
frage nachricht anfrage eingabe satz texto pregunta mensaje entrada texte entree testo domanda
入力 質問 本文 文章 文 输入 问题 文本 سؤال نص رسالة
"""
_REFERENCE = """
reference completion output answer label response reply category class target intent sentiment summary translation tag topic
expected gold result solution code type priority rating verdict decision json
kategorie antwort ausgabe klasse ziel respuesta etiqueta salida categoria reponse sortie etiquette risposta etichetta
出力 回答 答え 分類 ラベル 要約 输出 答案 标签 إجابة جواب تصنيف فئة
"""
_ID = "id key uuid guid nr no num number index row rownum rowid identifier 番号 编号 رقم"
_OTHER = """
date time timestamp created updated url link user author customer agent score confidence predicted prediction split fold language
lang locale version status file filename row datum zeit
"""
_PLAIN = """
input prompt reference completion output answer label response reply target expected gold result solution text column a b x y in
out instruction messages value json
"""

INPUT_NAMES = frozenset(_INPUT.split())
REFERENCE_NAMES = frozenset(_REFERENCE.split())
ID_NAMES = frozenset(_ID.split())
OTHER_NAMES = frozenset(_OTHER.split())
"""Columns that are usually neither the input nor the answer."""
PLAIN_NAMES = frozenset(_PLAIN.split())
"""Names that say which part a column plays, and nothing about what it holds."""
