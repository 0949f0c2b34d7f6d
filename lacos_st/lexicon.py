"""Word tables of the synthetic grammar: one line a concept, one column a language.

In a cell, `/` separates synonyms, `m` or `f` before a noun is its gender, `+` stands before an irregular plural, and
`:` separates forms: base and participle of an English verb, present and participle of a Romance one, active and
passive of an Indonesian one; masculine, feminine and plural of an adjective. Vietnamese nouns carry their classifier.
"""

from __future__ import annotations

from dataclasses import dataclass

LANGUAGES = ("en", "fr", "es", "pt", "id", "vi")

# concept, kind | en | fr | es | pt | id | vi
_BEINGS = """
woman person | woman/lady | f femme/f dame | f mujer/f señora | f mulher/f senhora | perempuan/wanita | người phụ nữ
man person | man/gentleman | m homme/m monsieur | m hombre/m señor | m homem/m senhor | pria/laki-laki | người đàn ông
girl person | girl | f fille/f fillette | f niña/f chica | f menina/f garota | anak perempuan/gadis | cô bé/bé gái
boy person | boy/lad | m garçon/m gamin | m niño/m chico | m menino/m garoto | anak laki-laki | cậu bé/bé trai
doctor person | doctor/physician | m médecin/m docteur | m médico/m doctor | m médico/m doutor | dokter | bác sĩ
teacher person | teacher/schoolteacher | m professeur/m enseignant | m profesor/m maestro | m professor/m docente \
| guru/pengajar | giáo viên/thầy giáo
farmer person | farmer | m fermier/m agriculteur | m granjero/m agricultor | m fazendeiro/m agricultor | petani \
| nông dân
student person | student/pupil | m étudiant/m élève | m estudiante/m alumno | m estudante/m aluno | siswa/pelajar \
| học sinh/học trò
cook person | cook/chef | m cuisinier/m chef | m cocinero/m chef | m cozinheiro/m chefe | juru masak/koki | đầu bếp
neighbour person | neighbour | m voisin | m vecino | m vizinho | tetangga | người hàng xóm
nurse person | nurse | f infirmière | f enfermera | f enfermeira | perawat | y tá
soldier person | soldier | m soldat | m soldado | m soldado | tentara/prajurit | người lính
artist person | artist | m artiste | m artista | m artista | seniman | nghệ sĩ
driver person | driver/chauffeur | m chauffeur/m conducteur | m conductor/m chófer | m motorista/m condutor \
| sopir/pengemudi | tài xế
dog animal | dog | m chien | m perro | m cachorro/m cão | anjing | con chó
cat animal | cat | m chat | m gato | m gato | kucing | con mèo
horse animal | horse | m cheval | m caballo | m cavalo | kuda | con ngựa
cow animal | cow | f vache | f vaca | f vaca | sapi | con bò
monkey animal | monkey | m singe | m mono | m macaco | monyet/kera | con khỉ
sheep animal | sheep | m mouton | f oveja | f ovelha | domba/biri-biri | con cừu
goat animal | goat | f chèvre | f cabra | f cabra | kambing | con dê
elephant animal | elephant | m éléphant | m elefante | m elefante | gajah | con voi
"""

_THINGS = """
car vehicle | car/automobile | f voiture/f automobile | m coche/m automóvil | m carro/m automóvel+automóveis | mobil \
| chiếc ô tô/chiếc xe hơi
bicycle vehicle | bicycle/bike | m vélo/f bicyclette | f bicicleta/f bici | f bicicleta | sepeda | chiếc xe đạp
truck vehicle | truck/lorry | m camion | m camión+camiones | m caminhão+caminhões | truk | chiếc xe tải
boat vehicle | boat | m bateau | m barco/m bote | m barco | perahu/kapal | chiếc thuyền
chair furniture | chair | f chaise | f silla | f cadeira | kursi/bangku | cái ghế
table furniture | table | f table | f mesa | f mesa | meja | cái bàn
bed furniture | bed | m lit | f cama | f cama | ranjang/tempat tidur | cái giường
cupboard furniture | cupboard/wardrobe | f armoire/m placard | m armario | m armário | lemari | cái tủ
shirt garment | shirt | f chemise | f camisa | f camisa | kemeja | chiếc áo sơ mi
hat garment | hat | m chapeau | m sombrero | m chapéu | topi | chiếc mũ/chiếc nón
dress garment | dress/gown | f robe | m vestido | m vestido | gaun | chiếc váy/chiếc đầm
coat garment | coat/overcoat | m manteau | m abrigo | m casaco/m sobretudo | mantel | chiếc áo khoác
apple fruit | apple | f pomme | f manzana | f maçã | apel | quả táo/trái táo
orange fruit | orange | f orange | f naranja | f laranja | jeruk | quả cam/trái cam
banana fruit | banana | f banane | m plátano/f banana | f banana | pisang | quả chuối/trái chuối
mango fruit | mango | f mangue | m mango | f manga | mangga | quả xoài/trái xoài
guitar instrument | guitar | f guitare | f guitarra | m violão+violões | gitar | cây đàn ghi-ta
drum instrument | drum | m tambour | m tambor | m tambor | gendang | cái trống
violin instrument | violin/fiddle | m violon | m violín+violines | m violino | biola | cây đàn vi-ô-lông
flute instrument | flute | f flûte | f flauta | f flauta | seruling/suling | cây sáo
box container | box/crate | f boîte/f caisse | f caja | f caixa | kotak/peti | cái hộp/cái thùng
basket container | basket | m panier | f cesta | f cesta | keranjang | cái giỏ/cái rổ
bag container | bag | m sac | f bolsa | f bolsa/f sacola | tas | cái túi
bottle container | bottle | f bouteille | f botella | f garrafa | botol | cái chai
letter document | letter | f lettre | f carta | f carta | surat | lá thư/bức thư
map document | map | f carte | m mapa | m mapa | peta | tấm bản đồ
newspaper document | newspaper/paper | m journal+journaux | m periódico/m diario | m jornal+jornais \
| koran/surat kabar \
| tờ báo
book document | book | m livre/m bouquin | m libro | m livro | buku | quyển sách/cuốn sách
"""

_KINDS = """
person being | person | f personne | f persona | f pessoa | orang | người
animal being | animal | m animal+animaux | m animal | m animal+animais | hewan/binatang | con vật
vehicle thing | vehicle | m véhicule | m vehículo | m veículo | kendaraan | phương tiện
furniture thing | piece of furniture+pieces of furniture | m meuble | m mueble | m móvel+móveis | perabot \
| món nội thất
garment thing | garment/piece of clothing+pieces of clothing | m vêtement | f prenda \
| f peça de roupa+peças de roupa \
| pakaian | món quần áo
fruit thing | fruit | m fruit | f fruta | f fruta | buah | trái cây
instrument thing | instrument | m instrument | m instrumento | m instrumento | alat musik | nhạc cụ
container thing | container | m récipient | m recipiente | m recipiente | wadah | vật đựng
document thing | document | m document | m documento | m documento | dokumen | tài liệu
"""

# concept, opposite ("-": none), what it is done to, Vietnamese passive (bị for what one suffers) | forms
_VERBS = """
buy sell thing được | buy:bought/purchase:purchased | achète:acheté | compra:comprado/adquiere:adquirido \
| compra:comprado/adquire:adquirido | membeli:dibeli | mua
sell buy thing được | sell:sold | vend:vendu | vende:vendido | vende:vendido | menjual:dijual | bán
find lose thing được | find:found/discover:discovered | trouve:trouvé/découvre:découvert \
| encuentra:encontrado/halla:hallado | encontra:encontrado/acha:achado | menemukan:ditemukan | tìm thấy
lose find thing bị | lose:lost/misplace:misplaced | perd:perdu/égare:égaré | pierde:perdido/extravía:extraviado \
| perde:perdido | menghilangkan:dihilangkan | đánh mất/làm mất
repair break thing được | repair:repaired/fix:fixed | répare:réparé | repara:reparado/arregla:arreglado \
| conserta:consertado/repara:reparado | memperbaiki:diperbaiki | sửa/sửa chữa
break repair thing bị | break:broken/damage:damaged | casse:cassé/abîme:abîmé | rompe:roto/estropea:estropeado \
| quebra:quebrado/danifica:danificado | merusak:dirusak | làm hỏng/phá hỏng
hide show thing bị | hide:hidden/conceal:concealed | cache:caché/dissimule:dissimulé \
| esconde:escondido/oculta:ocultado \
| esconde:escondido/oculta:ocultado | menyembunyikan:disembunyikan | giấu/che giấu
show hide thing được | show:shown/display:displayed | montre:montré/expose:exposé | muestra:mostrado/enseña:enseñado \
| mostra:mostrado/exibe:exibido | menunjukkan:ditunjukkan/memperlihatkan:diperlihatkan | trưng bày/cho xem
steal return thing bị | steal:stolen | vole:volé/dérobe:dérobé | roba:robado/hurta:hurtado \
| rouba:roubado/furta:furtado \
| mencuri:dicuri | ăn trộm/lấy trộm
return steal thing được | return:returned | rend:rendu/restitue:restitué | devuelve:devuelto | devolve:devolvido \
| mengembalikan:dikembalikan | trả lại
carry - thing được | carry:carried/transport:transported | porte:porté/transporte:transporté \
| lleva:llevado/transporta:transportado | carrega:carregado/transporta:transportado \
| membawa:dibawa/mengangkut:diangkut | mang/vận chuyển
clean - thing được | clean:cleaned/wash:washed | nettoie:nettoyé/lave:lavé | limpia:limpiado/lava:lavado \
| limpa:limpo/lava:lavado | membersihkan:dibersihkan/mencuci:dicuci | lau/rửa
paint - thing được | paint:painted | peint:peint | pinta:pintado | pinta:pintado | mengecat:dicat | sơn
draw - thing được | draw:drawn/sketch:sketched | dessine:dessiné | dibuja:dibujado | desenha:desenhado \
| menggambar:digambar | vẽ
choose - thing được | choose:chosen/select:selected | choisit:choisi/sélectionne:sélectionné \
| elige:elegido/escoge:escogido | escolhe:escolhido/seleciona:selecionado | memilih:dipilih | chọn/lựa chọn
rent - thing được | rent:rented | loue:loué | alquila:alquilado | aluga:alugado | menyewa:disewa | thuê
push pull being bị | push:pushed/shove:shoved | pousse:poussé/bouscule:bousculé | empuja:empujado \
| empurra:empurrado \
| mendorong:didorong | đẩy/xô
pull push being bị | pull:pulled/drag:dragged | tire:tiré/traîne:traîné | arrastra:arrastrado \
| puxa:puxado/arrasta:arrastado | menarik:ditarik/menyeret:diseret | kéo/lôi
chase avoid being bị | chase:chased/pursue:pursued | poursuit:poursuivi/pourchasse:pourchassé | persigue:perseguido \
| persegue:perseguido | mengejar:dikejar | đuổi theo/rượt đuổi
avoid chase being bị | avoid:avoided | évite:évité | evita:evitado/esquiva:esquivado | evita:evitado \
| menghindari:dihindari | tránh/né tránh
attack protect being bị | attack:attacked | attaque:attaqué/agresse:agressé | ataca:atacado/agrede:agredido \
| ataca:atacado/agride:agredido | menyerang:diserang | tấn công
protect attack being được | protect:protected/defend:defended | protège:protégé/défend:défendu \
| protege:protegido/defiende:defendido | protege:protegido/defende:defendido | melindungi:dilindungi | bảo vệ/che chở
frighten calm being bị | frighten:frightened/scare:scared | effraie:effrayé/épouvante:épouvanté \
| asusta:asustado/espanta:espantado | assusta:assustado/espanta:espantado | menakut-nakuti:ditakut-takuti | dọa/làm sợ
calm frighten being được | calm:calmed/soothe:soothed | calme:calmé/apaise:apaisé \
| calma:calmado/tranquiliza:tranquilizado \
| acalma:acalmado/tranquiliza:tranquilizado | menenangkan:ditenangkan | trấn an/làm dịu
see - being được | see:seen/notice:noticed | voit:vu/aperçoit:aperçu | ve:visto | vê:visto/avista:avistado \
| melihat:dilihat | nhìn thấy
follow - being bị | follow:followed | suit:suivi | sigue:seguido | segue:seguido | mengikuti:diikuti \
| đi theo/theo sau
help - being được | help:helped/assist:assisted | aide:aidé/assiste:assisté | ayuda:ayudado/auxilia:auxiliado \
| ajuda:ajudado/auxilia:auxiliado | membantu:dibantu/menolong:ditolong | giúp/giúp đỡ
wake - being bị | wake:woken/awaken:awakened | réveille:réveillé | despierta:despertado \
| acorda:acordado/desperta:despertado | membangunkan:dibangunkan | đánh thức
"""

# kind: of two adjectives of one kind, a thing has at most one
_ADJECTIVES = """
red colour | red | rouge | rojo | vermelho | merah | màu đỏ
blue colour | blue | bleu | azul | azul:azul:azuis | biru | màu xanh dương
green colour | green | vert | verde | verde | hijau | màu xanh lá
black colour | black | noir | negro | preto | hitam | màu đen
white colour | white | blanc:blanche | blanco | branco | putih | màu trắng
yellow colour | yellow | jaune | amarillo | amarelo | kuning | màu vàng
clean state | clean/spotless | propre | limpio | limpo | bersih | sạch/sạch sẽ
dirty state | dirty/filthy | sale | sucio | sujo | kotor | bẩn/dơ
heavy weight | heavy | lourd/pesant | pesado | pesado | berat | nặng
light weight | lightweight | léger:légère | ligero/liviano | leve | ringan | nhẹ
expensive price | expensive/costly | cher:chère/coûteux:coûteuse:coûteux | caro/costoso | caro/custoso | mahal \
| đắt/đắt tiền
cheap price | cheap/inexpensive | bon marché:bon marché:bon marché | barato/económico | barato | murah | rẻ/rẻ tiền
"""

_PLACES = """
market place | at the market/in the marketplace | au marché | en el mercado | no mercado/na feira | di pasar | ở chợ
school place | at school/in the schoolhouse | à l'école | en la escuela/en el colegio | na escola/no colégio \
| di sekolah \
| ở trường/ở trường học
garden place | in the garden | dans le jardin | en el jardín | no jardim | di kebun | trong vườn
kitchen place | in the kitchen | dans la cuisine | en la cocina | na cozinha | di dapur | trong bếp/trong nhà bếp
street place | in the street/on the road | dans la rue/sur la route | en la calle | na rua | di jalan \
| trên đường/ngoài phố
park place | in the park | dans le parc | en el parque | no parque | di taman | trong công viên/ở công viên
beach place | on the beach/at the seaside | à la plage/au bord de la mer | en la playa/a la orilla del mar \
| na praia/à beira-mar | di pantai/di tepi laut | trên bãi biển/ở bờ biển
station place | at the station/at the train station | à la gare | en la estación | na estação | di stasiun | ở nhà ga
library place | in the library | à la bibliothèque | en la biblioteca | na biblioteca | di perpustakaan \
| trong thư viện/ở thư viện
office place | at the office/at the workplace | au bureau/sur le lieu de travail | en la oficina/en el trabajo \
| no escritório/no trabalho | di kantor/di tempat kerja | ở văn phòng/ở nơi làm việc
village place | in the village | dans le village/au village | en el pueblo/en la aldea | na aldeia/no vilarejo \
| di desa/di kampung | trong làng/ở làng
hospital place | at the hospital/in the clinic | à l'hôpital/à la clinique | en el hospital/en la clínica \
| no hospital/na clínica | di rumah sakit | ở bệnh viện
"""

_TIMES = """
morning time | in the morning | le matin/dans la matinée | por la mañana | de manhã/pela manhã | pada pagi hari \
| vào buổi sáng
noon time | at noon/at midday | à midi | al mediodía | ao meio-dia | pada siang hari | vào buổi trưa
evening time | in the evening | le soir/dans la soirée | al anochecer | ao anoitecer | pada malam hari | vào buổi tối
midnight time | at midnight/in the middle of the night | à minuit/au milieu de la nuit | a medianoche | à meia-noite \
| pada tengah malam | lúc nửa đêm
daily time | every day/daily | tous les jours/chaque jour | todos los días/cada día | todos os dias/diariamente \
| setiap hari/tiap hari | mỗi ngày/hàng ngày
monday time | on Monday | lundi | el lunes | na segunda-feira | pada hari Senin | vào thứ Hai
sunday time | on Sunday | dimanche | el domingo | no domingo | pada hari Minggu | vào Chủ nhật
summer time | in summer/during the summer | en été/pendant l'été | en verano/durante el verano \
| no verão/durante o verão \
| pada musim panas | vào mùa hè/vào mùa hạ
winter time | in winter/during the winter | en hiver/pendant l'hiver | en invierno/durante el invierno \
| no inverno/durante o inverno | pada musim dingin | vào mùa đông
"""

NUMBERS: dict[str, tuple[tuple[str, str], ...]] = {  # (masculine, feminine) of one to four
    "en": (("a", "a"), ("two", "two"), ("three", "three"), ("four", "four")),
    "fr": (("un", "une"), ("deux", "deux"), ("trois", "trois"), ("quatre", "quatre")),
    "es": (("un", "una"), ("dos", "dos"), ("tres", "tres"), ("cuatro", "cuatro")),
    "pt": (("um", "uma"), ("dois", "duas"), ("três", "três"), ("quatro", "quatro")),
    "id": (("sebuah", "sebuah"), ("dua", "dua"), ("tiga", "tiga"), ("empat", "empat")),
    "vi": (("một", "một"), ("hai", "hai"), ("ba", "ba"), ("bốn", "bốn")),
}


@dataclass(frozen=True)
class Word:
    """One way to say a concept in one language.

    Attributes:
        forms: The forms of the cell, as the module's docstring lists them.
        gender: "m", "f", or "" where the language has none.
        plural: Plural that no rule gives, or "".
    """

    forms: tuple[str, ...]
    gender: str = ""
    plural: str = ""


@dataclass(frozen=True)
class Concept:
    """A meaning and its words in each language.

    Attributes:
        name: Its name, the English word as a rule.
        traits: What the table says of it after the name: the kind of a noun; opposite, object and passive of a verb.
        words: Language -> synonyms.
    """

    name: str
    traits: tuple[str, ...]
    words: dict[str, tuple[Word, ...]]


def _word(text: str) -> Word:
    gender = ""
    if text[:2] in ("m ", "f "):
        gender, text = text[0], text[2:]
    text, _, plural = text.partition("+")
    return Word(tuple(text.split(":")), gender, plural)


def _table(text: str) -> dict[str, Concept]:
    concepts = {}
    for line in text.strip().splitlines():
        head, *cells = (cell.strip() for cell in line.split("|"))
        name, *traits = head.split()
        words = {
            language: tuple(_word(form.strip()) for form in cell.split("/"))
            for language, cell in zip(LANGUAGES, cells, strict=True)
        }
        concepts[name] = Concept(name, tuple(traits), words)
    return concepts


BEINGS = _table(_BEINGS)
THINGS = _table(_THINGS)
KINDS = _table(_KINDS)
NOUNS = BEINGS | THINGS | KINDS
VERBS = _table(_VERBS)
ADJECTIVES = _table(_ADJECTIVES)
PLACES = _table(_PLACES)
TIMES = _table(_TIMES)
