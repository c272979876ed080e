"""Sentences to try, one per language; a page offers those in the languages of its taggers."""

from collections.abc import Iterable

SENTENCES = {
    "en": "Maria Schmidt left Lisbon in March to work for the World Health Organization in Geneva.",
    "de": "Im Sommer zog Karl Weber von Hamburg nach Wien und spielt nun für Rapid Wien.",
    "es": "La escritora Elena Ruiz nació en Valparaíso y estudió en la Universidad de Chile.",
    "fr": "Claire Dupont a quitté Lyon pour diriger le musée des Beaux-Arts de Nantes.",
    "nl": "De burgemeester van Utrecht sprak gisteren met Jan de Vries van Feyenoord.",
    "pt": "A bióloga Inês Carvalho mudou-se do Porto para Maputo e trabalha na Cruz Vermelha.",
    "it": "Marco Bianchi si è trasferito da Torino a Palermo per insegnare al Politecnico.",
    "ca": "La Núria Puig va néixer a Girona i treballa a la Universitat de Barcelona.",
    "da": "Søren Holm flyttede fra Aarhus til Oslo og arbejder nu for Røde Kors.",
    "sv": "Astrid Lund reste från Uppsala till Helsingfors med Svenska Röda Korset.",
    "pl": "Ewa Nowak wyjechała z Krakowa do Gdańska, aby pracować w Muzeum Narodowym.",
    "ru": "Анна Соколова переехала из Казани в Москву и работает в Красном Кресте.",
    "tr": "Elif Demir geçen yıl İzmir'den Ankara'ya taşındı ve Kızılay'da çalışıyor.",
    "ar": "وصلت ليلى حداد من بيروت إلى القاهرة يوم الاثنين.",
    "he": "דנה לוי עברה מחיפה לירושלים ועובדת במגן דוד אדום.",
    "fa": "سارا رضایی از شیراز به تهران رفت و در هلال احمر کار می‌کند.",
    "hi": "अनीता वर्मा जयपुर से मुंबई चली गईं और रेड क्रॉस में काम करती हैं।",
    "zh": "李明去年从成都搬到上海，在红十字会工作。",
    "ja": "佐藤花子は昨年札幌から東京へ移り、赤十字社で働いている。",
    "id": "Siti Rahayu pindah dari Bandung ke Jakarta dan bekerja di Palang Merah.",
    "vi": "Nguyễn Thị Lan chuyển từ Huế đến Hà Nội và làm việc cho Hội Chữ thập đỏ.",
}


def examples(languages: Iterable[str]) -> list[str]:
    """The sentences in these languages (`"pt"`, `"pt-BR"`); one in English where there is none."""
    codes = {language.split("-")[0] for language in languages}
    return [sentence for code, sentence in SENTENCES.items() if code in codes] or [SENTENCES["en"]]
