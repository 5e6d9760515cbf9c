"""Headings and fixed phrases of the reports in English and Ukrainian. What records say stays as it was recorded."""

from __future__ import annotations

from typing import Literal

Language = Literal["en", "uk"]

_TEXTS: dict[str, tuple[str, str]] = {
    "summary": ("What changed", "Що змінилося"),
    "before": ("Before", "До"),
    "after": ("After", "Після"),
    "difference": ("Difference", "Різниця"),
    "measure": ("Measure", "Показник"),
    "source": ("Measured by", "Як виміряно"),
    "ndcg": ("Ranking quality, NDCG@10", "Якість ранжування, NDCG@10"),
    "p95": ("Slow searches, P95", "Повільні пошуки, P95"),
    "cost": ("Cost of 1,000 searches", "Вартість 1000 пошуків"),
    "failed": ("Requests failed", "Невдалих запитів"),
    "unknown": ("unknown", "невідомо"),
    "diagnosis": ("Why: the diagnosis", "Чому: діагноз"),
    "trigger": ("Trigger", "Тригер"),
    "against": ("against", "проти"),
    "policy": ("Policy", "Політика"),
    "cause": ("Root cause", "Корінна причина"),
    "affected": ("Affected", "Де саме"),
    "weak_words": ("Weak slices and words", "Слабкі зрізи та слова"),
    "new_words": ("New words", "Нові слова"),
    "coverage": ("Known query words", "Відомих слів у запитах"),
    "misses": ("Where relevant documents were lost", "Де загубилися релевантні документи"),
    "actions": ("Recommended", "Рекомендовано"),
    "dataset": ("Training data", "Навчальні дані"),
    "yield": ("Left after each filter", "Лишилося після кожного фільтра"),
    "evaluation": ("Champion against challenger", "Чемпіон проти претендента"),
    "slices": ("By slice", "За зрізами"),
    "trial": ("Trial on traffic", "Випробування на трафіку"),
    "gates": ("Gates", "Пороги якості"),
    "gate": ("Gate", "Поріг"),
    "answer": ("Answer", "Відповідь"),
    "value": ("Value", "Значення"),
    "limit": ("Limit", "Межа"),
    "sample": ("Sample", "Вибірка"),
    "reason": ("Reason", "Підстава"),
    "decisions": ("Decisions", "Рішення"),
    "stage": ("Stage", "Етап"),
    "verdict": ("Verdict", "Вердикт"),
    "approved_by": ("Approved by", "Схвалив"),
    "release": ("Release", "Реліз"),
    "key": ("Key", "Ключ"),
    "watch": ("Watch after the release", "Нагляд після релізу"),
    "rollback": ("Rollback", "Відкат"),
    "history": ("Metric history", "Історія метрики"),
    "latency": ("Latency", "Затримка"),
    "timeline": ("Timeline", "Хронологія"),
    "time": ("Time (UTC)", "Час (UTC)"),
    "actor": ("Actor", "Хто"),
    "action": ("Action", "Дія"),
    "record": ("Record", "Запис"),
    "missing": ("Not there", "Чого немає"),
    "missing_text": ("Stages that did not run, or did not finish, left no file:", "Етапи, що не виконувалися або не завершилися, не залишили файлів:"),
    "files": ("Files", "Файли"),
    "outcome_stable": ("Released and stable", "Випущено, працює стабільно"),
    "outcome_released": ("Released, being watched", "Випущено, під наглядом"),
    "outcome_unconfirmed": ("Not released: the service did not confirm it", "Не випущено: сервіс не підтвердив"),
    "outcome_rolled_back": ("Rolled back", "Відкочено"),
    "outcome_rollback_failed": ("Rollback not confirmed: look at the service", "Відкат не підтверджено: перевірте сервіс"),
    "outcome_reject": ("Rejected: nothing was promoted", "Відхилено: нічого не просунуто"),
    "outcome_inconclusive": ("Inconclusive: nothing was promoted", "Недостатньо доказів: нічого не просунуто"),
    "outcome_waiting": ("Waiting for approval", "Очікує схвалення"),
    "outcome_approved": ("Approved, not released yet", "Схвалено, ще не випущено"),
    "outcome_unfinished": ("Unfinished", "Не завершено"),
    "simulated": ("simulated traffic", "симульований трафік"),
    "mock": ("mock metrics", "імітовані метрики"),
    "drill": ("drill", "навчальна тривога"),
    "written": ("Written", "Складено"),
    "of": ("of", "з"),
}


def phrase(key: str, lang: Language) -> str:
    """The phrase in ``lang``.

    Raises
    ------
    KeyError
        No such phrase.
    """
    return _TEXTS[key][0 if lang == "en" else 1]
