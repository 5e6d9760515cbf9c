"""Every word of the operations page in English and Ukrainian. What records say stays as it was recorded.

What belongs here: words. What must not: where they stand.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Language = Literal["en", "uk"]
LANGUAGES: tuple[Language, ...] = ("en", "uk")

TEXTS: dict[str, tuple[str, str]] = {
    # the frame
    "title": ("Operations", "Керування"),
    "skip": ("Skip to the content", "Перейти до вмісту"),
    "navigation": ("Pages", "Сторінки"),
    "nav_overview": ("Overview", "Огляд"),
    "nav_audit": ("Audit", "Журнал дій"),
    "nav_dagster": ("Dagster", "Dagster"),
    "nav_mlflow": ("MLflow", "MLflow"),
    "nav_api": ("API", "API"),
    "language": ("Language", "Мова"),
    "other_language": ("Українською", "In English"),
    "signed_in": ("You are", "Ви"),
    "role_viewer": ("viewer", "глядач"),
    "role_operator": ("operator", "оператор"),
    "role_approver": ("approver", "схвалювач"),
    "role_admin": ("administrator", "адміністратор"),
    "sign_out": ("Sign out", "Вийти"),
    "contour": ("Contour", "Контур"),
    "as_of": ("As of", "Станом на"),
    "times_utc": ("All times are UTC.", "Увесь час за UTC."),
    "updated": ("Updated", "Оновлено"),
    "pause": ("Pause updates", "Призупинити оновлення"),
    "resume": ("Resume updates", "Відновити оновлення"),
    "unknown": ("unknown", "невідомо"),
    "none": ("none", "немає"),
    "yes": ("yes", "так"),
    "no": ("no", "ні"),
    # now
    "now": ("What the loop does now", "Що зараз робить цикл"),
    "now_unprepared": ("This home is not prepared yet", "Цю теку ще не підготовлено"),
    "now_disabled": ("The loop is switched off in this contour's values", "Цикл вимкнено у значеннях цього контуру"),
    "now_stopped": ("The loop is stopped: the kill switch is on", "Цикл зупинено: аварійний вимикач увімкнено"),
    "now_silent": ("The loop should run, but something it needs does not answer", "Цикл мав би працювати, але щось потрібне не відповідає"),
    "now_cycle": ("A cycle is under way", "Триває цикл поліпшення"),
    "now_waiting": ("A cycle waits for a person", "Цикл чекає на людину"),
    "now_watching": ("A release is being watched", "Реліз під наглядом"),
    "now_idle": ("It watches, and no cycle is under way", "Спостерігає, жоден цикл не триває"),
    "now_starting": ("A gate asks for a cycle; the next tick starts it", "Поріг вимагає циклу; його почне наступний такт"),
    "why_no_cycle": ("Why no cycle starts", "Чому цикл не починається"),
    "why_cycle": ("Why a cycle starts", "Чому цикл починається"),
    "not_before": ("Not before", "Не раніше"),
    "next_tick": ("Next look in", "Наступна перевірка за"),
    "minutes": ("min", "хв"),
    "champion": ("Champion", "Чемпіон"),
    "gates_state": ("Quality gates", "Пороги якості"),
    "gates_passing": ("all pass", "усі дотримано"),
    "gates_warning": ("something is unknown", "дещо невідомо"),
    "gates_failing": ("a gate fails", "поріг порушено"),
    "cycles_24h": ("Cycles in 24 hours", "Циклів за добу"),
    "last_action": ("Last action", "Остання дія"),
    "unwatched": ("A release is not watched", "Реліз без нагляду"),
    "problems": ("What does not work", "Що не працює"),
    "kill_switch": ("Kill switch", "Аварійний вимикач"),
    "kill_on": ("on: nothing starts", "увімкнено: ніщо не починається"),
    "kill_off": ("off", "вимкнено"),
    "kill_press": ("Stop the loop …", "Зупинити цикл …"),
    "kill_lift": ("Let the loop run again …", "Знову запустити цикл …"),
    "measured_at": ("Measured", "Виміряно"),
    "mock": ("These are mock metrics: nobody measured them.", "Це імітовані показники: їх ніхто не вимірював."),
    # a cycle
    "current_cycle": ("Current cycle", "Поточний цикл"),
    "no_cycle": ("No cycle is under way.", "Жоден цикл не триває."),
    "no_cycles": ("No cycle has run here yet.", "Тут ще не було жодного циклу."),
    "last_cycle": ("The last one", "Останній"),
    "open_cycle": ("Open the cycle", "Відкрити цикл"),
    "cycle": ("Cycle", "Цикл"),
    "steps": ("Steps of the cycle", "Кроки циклу"),
    "step_done": ("done", "виконано"),
    "step_current": ("now", "зараз"),
    "step_skipped": ("skipped", "пропущено"),
    "step_ahead": ("ahead", "попереду"),
    "state": ("State", "Стан"),
    "opened": ("Opened", "Відкрито"),
    "changed": ("Changed", "Змінено"),
    "reason": ("Reason", "Підстава"),
    "trigger": ("Trigger", "Тригер"),
    "value": ("Value", "Значення"),
    "baseline": ("Baseline", "Еталон"),
    "actions": ("Actions", "Дії"),
    "verdicts": ("Verdicts", "Вердикти"),
    "no_verdicts": ("No stage has given a verdict yet.", "Жоден етап ще не дав вердикту."),
    "stage": ("Stage", "Етап"),
    "answer": ("Answer", "Відповідь"),
    "links": ("Where to look", "Де подивитися"),
    "timeline": ("Ledger records of this cycle", "Записи журналу про цей цикл"),
    "improvement": ("Measured gain", "Виміряний виграш"),
    "cost_of_cycle": ("Cost of the cycle (estimated)", "Вартість циклу (оцінка)"),
    "overridden_in": ("Gates overridden while it ran", "Пороги, змінені під час циклу"),
    "recent_cycles": ("Recent cycles", "Останні цикли"),
    "duration": ("Took", "Тривав"),
    "state_opened": ("opened", "відкрито"),
    "state_prepared": ("data prepared", "дані підготовлено"),
    "state_trained": ("trained", "навчено"),
    "state_evaluated": ("evaluated", "оцінено"),
    "state_on_trial": ("on trial", "на випробуванні"),
    "state_decided": ("decided", "вирішено"),
    "state_awaiting_approval": ("waits for approval", "очікує схвалення"),
    "state_released": ("released", "випущено"),
    "state_watching": ("watched", "під наглядом"),
    "state_stable": ("stable", "стабільно"),
    "state_rejected": ("rejected", "відхилено"),
    "state_rolled_back": ("rolled back", "відкочено"),
    "state_cancelled": ("cancelled", "скасовано"),
    "state_expired": ("expired", "прострочено"),
    "state_failed": ("failed", "збій"),
    "link_report": ("Report", "Звіт"),
    "link_training_data": ("Training data", "Навчальні дані"),
    "link_trial_page": ("A/B trial", "A/B-випробування"),
    "link_mlflow_run": ("MLflow run", "Запуск у MLflow"),
    "link_trial_commit": ("Git commit of the trial", "Git-коміт випробування"),
    "link_release_commit": ("Git commit of the release", "Git-коміт релізу"),
    "link_rollback_commit": ("Git commit of the rollback", "Git-коміт відкату"),
    "link_dagster": ("Assets in Dagster", "Активи в Dagster"),
    # approvals
    "approvals": ("Waiting for a person", "Чекають на людину"),
    "no_approvals": ("Nothing waits for a decision.", "Ніщо не чекає на рішення."),
    "asked": ("Asked", "Запитано"),
    "expires": ("Answer by", "Відповісти до"),
    "no_expiry": ("no limit is recorded", "строк не записано"),
    "evidence": ("What it was judged by", "За чим оцінено"),
    "failing_gates": ("Other gates that failed when you were asked", "Інші пороги, порушені на момент запитання"),
    "would_change": ("What would change the verdict", "Що змінило б вердикт"),
    "slices": ("Slices", "Зрізи"),
    "looked_again": ("Looked at again", "Перевірено знову"),
    "decide": ("Your decision", "Ваше рішення"),
    "why": ("Why (goes into the ledger)", "Чому (потрапить до журналу)"),
    "approve": ("Approve the release", "Схвалити реліз"),
    "reject": ("Reject it", "Відхилити"),
    "approve_needs": ("Approving needs the role of an approver.", "Для схвалення потрібна роль схвалювача."),
    "earlier_answers": ("Earlier answers", "Попередні відповіді"),
    "decision": ("Decision", "Рішення"),
    "decision_approved": ("approved", "схвалено"),
    "decision_rejected": ("rejected", "відхилено"),
    "decision_expired": ("expired", "прострочено"),
    "decision_cancelled": ("cancelled", "скасовано"),
    "stage_trial": ("trial", "випробування"),
    "stage_promote": ("release", "реліз"),
    "who": ("Who", "Хто"),
    # gates
    "gates": ("Quality gates", "Пороги якості"),
    "gate": ("Gate", "Поріг"),
    "limit": ("Limit", "Межа"),
    "sample": ("Sample", "Вибірка"),
    "history": ("History", "Історія"),
    "at_least": ("at least", "щонайменше"),
    "at_most": ("at most", "щонайбільше"),
    "answer_pass": ("pass", "дотримано"),
    "answer_fail": ("fail", "порушено"),
    "answer_unknown": ("unknown", "невідомо"),
    "answer_not_applicable": ("does not apply", "не застосовно"),
    "overridden": ("overridden", "змінено"),
    "until": ("until", "до"),
    "spark": ("{name}: {n} windows, lowest {low}, highest {high}, newest {last}", "{name}: вікон {n}, найменше {low}, найбільше {high}, останнє {last}"),
    "spark_empty": ("{name}: no window has a value", "{name}: жодне вікно не має значення"),
    "spark_limit": ("The dashed line is the limit.", "Пунктир позначає межу."),
    "no_windows": ("No window was measured yet.", "Ще не виміряно жодного вікна."),
    # champions, costs, messages
    "champions": ("Champions", "Чемпіони"),
    "no_champions": ("The control database knows of no champion yet.", "База керування ще не знає жодного чемпіона."),
    "since": ("Since", "З"),
    "until_when": ("Until", "До"),
    "serves_now": ("serves now", "працює зараз"),
    "commit": ("Commit", "Коміт"),
    "costs": ("Costs", "Витрати"),
    "spent_month": ("Cycles of this month (estimated)", "Цикли цього місяця (оцінка)"),
    "budget": ("Budget of a month", "Бюджет на місяць"),
    "no_budget": ("none is set", "не задано"),
    "cost_per_1k": ("Cost of 1,000 searches", "Вартість 1000 пошуків"),
    "before_after": ("Before and after", "До і після"),
    "measure": ("Measure", "Показник"),
    "before": ("Before", "До"),
    "after": ("After", "Після"),
    "difference": ("Difference", "Різниця"),
    "messages": ("Messages to people", "Повідомлення людям"),
    "no_messages": ("No message was sent from here yet.", "Звідси ще не надсилали повідомлень."),
    "messages_waiting": ("On their way", "У дорозі"),
    "message": ("Message", "Повідомлення"),
    "channels": ("Channels", "Канали"),
    "no_channels": ("log only", "лише до журналу"),
    "next_step": ("Next", "Далі"),
    "severity": ("Severity", "Важливість"),
    "severity_info": ("information", "інформація"),
    "severity_warning": ("warning", "попередження"),
    "severity_critical": ("critical", "критично"),
    "delivery_told": ("told", "передано"),
    "delivery_waiting": ("on its way", "у дорозі"),
    "delivery_refused": ("refused", "не прийнято"),
    "delivery_dropped": ("given up", "облишено"),
    # audit
    "audit": ("Audit", "Журнал дій"),
    "audit_search": ("Search the ledger", "Пошук у журналі"),
    "audit_newest": ("Newest records", "Найновіші записи"),
    "audit_found": ("Records, newest first", "Записи, найновіші першими"),
    "audit_none": ("No record fits.", "Жоден запис не підходить."),
    "audit_total": ("Records in the ledger", "Записів у журналі"),
    "audit_shown": ("Shown", "Показано"),
    "actor": ("Actor", "Хто"),
    "action": ("Action", "Дія"),
    "from": ("From (UTC day)", "Від (день UTC)"),
    "to": ("To (UTC day, inclusive)", "До (день UTC включно)"),
    "text": ("Words in the reason or details", "Слова в підставі чи подробицях"),
    "search": ("Search", "Шукати"),
    "clear": ("Clear", "Очистити"),
    "older": ("Older records", "Старіші записи"),
    "newest": ("Back to the newest", "До найновіших"),
    "time": ("Time", "Час"),
    "record": ("Record", "Запис"),
    "details": ("Details", "Подробиці"),
    # the kill switch
    "kill_title_stop": ("Stop the loop?", "Зупинити цикл?"),
    "kill_title_start": ("Let the loop run again?", "Знову запустити цикл?"),
    "kill_step": ("Step 2 of 2: confirm", "Крок 2 з 2: підтвердження"),
    "kill_effect_stop": (
        "No new cycle starts, nothing is promoted, and what a cycle has queued or running is ended. Watching a release and taking it back go on.",
        "Нові цикли не починаються, нічого не випускається, а все, що цикл поставив у чергу чи виконує, завершується. Нагляд за релізом і відкат тривають.",
    ),
    "kill_effect_start": ("Cycles may start again when a gate asks for one.", "Цикли знову зможуть починатися, коли цього вимагатиме поріг."),
    "kill_by_values": (
        "The contour's values hold the switch on (selfImprovement.killSwitch); only a change of the values lifts it.",
        "Вимикач увімкнено у значеннях контуру (selfImprovement.killSwitch); зняти його можна лише зміною значень.",
    ),
    "kill_confirm_stop": ("Stop the loop now", "Зупинити цикл зараз"),
    "kill_confirm_start": ("Let it run", "Запустити"),
    "cancel": ("Cancel, change nothing", "Скасувати, нічого не змінювати"),
    "kill_needs": ("The switch needs the role of an administrator.", "Для вимикача потрібна роль адміністратора."),
    # what was done
    "done_approve": ("Approved. The loop releases it at its next look.", "Схвалено. Цикл випустить це під час наступної перевірки."),
    "done_reject": ("Rejected. The challenger is taken off.", "Відхилено. Претендента знято."),
    "done_stop": ("The kill switch is on.", "Аварійний вимикач увімкнено."),
    "done_start": ("The kill switch is off.", "Аварійний вимикач вимкнено."),
    # refusals and pages of their own
    "refused": ("This was not done", "Цього не зроблено"),
    "back": ("Back to the overview", "Назад до огляду"),
    "missing": ("Not found", "Не знайдено"),
    "commit_title": ("Commit", "Коміт"),
    "commit_shortened": ("The rest is not shown.", "Решту не показано."),
    "sign_in": ("Sign in", "Увійти"),
    "sign_in_why": (
        "This contour asks who you are. Paste a token of yours; `predator-si token create` makes one.",
        "Цей контур питає, хто ви. Вставте свій токен; його створює `predator-si token create`.",
    ),
    "token": ("Token", "Токен"),
    "sign_in_failed": ("This token is unknown, expired or revoked.", "Цей токен невідомий, прострочений або відкликаний."),
}


def phrase(key: str, lang: Language) -> str:
    """The phrase in ``lang``.

    Raises
    ------
    KeyError
        No such phrase.
    """
    return TEXTS[key][LANGUAGES.index(lang)]


def preferred(header: str, offered: Iterable[Language] = LANGUAGES) -> Language:
    """The language that an ``Accept-Language`` header asks for (RFC 9110 section 12.5.4); English where it asks for neither of ours.

    The highest quality wins; of equal ones the first named. ``*`` means English; ``q=0`` rules a language out.
    """
    best: tuple[float, Language] = (0.0, "en")
    for part in header[:500].split(","):
        name, _, rest = part.strip().partition(";")
        primary = name.strip().lower().partition("-")[0]
        found = "en" if primary == "*" else next((lang for lang in offered if lang == primary), None)
        try:
            quality = float(rest.strip().removeprefix("q=")) if rest.strip() else 1.0
        except ValueError:
            continue
        if found is not None and quality > best[0]:
            best = (quality, found)
    return best[1]
