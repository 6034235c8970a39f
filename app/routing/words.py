"""Word lists: what people say when they want code, live facts, a summary or a label.

Sets over tokens, never patterns over text: a look-up costs the same however long the list grows, and nothing can
backtrack.  A strong list holds words that hardly ever mean anything else; words with an everyday meaning (`class`,
`string`, `swift`) stand in the weak lists, which count only in company.
"""

from __future__ import annotations


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# --- code ---------------------------------------------------------------------------------------

TECH = _set(
    "python python3 javascript typescript js tsx jsx kotlin scala golang c++ cpp c# csharp f# php perl haskell "
    "erlang elixir clojure lua matlab fortran cobol vba powershell bash zsh awk sed grep sql mysql postgres "
    "postgresql sqlite mongodb nosql plsql graphql html css scss xml json yaml toml csv regex regexp reactjs "
    "angular svelte nextjs nodejs npm webpack eslint django fastapi laravel symfony springboot jpa gradle numpy "
    "pandas scipy matplotlib tensorflow pytorch sklearn linq wpf winforms dotnet wordpress drupal magento jquery "
    "ajax xcode swiftui git github gitlab svn dockerfile kubernetes kubectl k8s terraform nginx ubuntu systemd "
    "crontab api apis grpc oauth jwt cors websocket localhost orm backend frontend vscode emacs intellij makefile "
    "cmake gcc clang llvm opengl traceback segfault nullpointerexception typeerror valueerror keyerror "
    "syntaxerror stdin stdout stderr middleware webhook async boolean hashmap dataframe substring refactor "
    "compiler leetcode unittest pytest junit iframe href onclick crashloopbackoff multithreading codebase "
    "usestate useeffect"
)
TECH_WEAK = _set(
    "java go rust swift ruby rails react vue node spring hibernate maven shell c r vb flask dart excel oracle "
    "unity docker linux unix windows android ios apache tomcat azure aws lambda helm ansible jenkins redis spark "
    "hadoop qt vim solidity assembly cuda keras dom url http https ssh tcp struct enum tuple mutex recursion "
    "recursive exception await pods repo"
)
CODE_NOUN = _set(
    "function functions class classes method methods variable variables array arrays string strings loop loops "
    "object objects query queries script scripts program programs code algorithm bug error errors syntax "
    "parameter parameters argument pointer thread threads server database databases table tables column columns "
    "index list lists dictionary dict key keys button component components render renders module package library "
    "framework test tests endpoint schema template dataset file files directory command stack queue tree graph "
    "node nodes integer integers int float char byte bytes cache interface inheritance constructor container "
    "pipeline app application website page form controller model view config exception callback event binary "
    "matrix element elements input output sort sorted print parse import type null commit branch merge deploy "
    "deployment build compile plugin widget checkbox textbox gui terminal console"
)
CODE_VERB = _set(
    "write implement fix debug refactor optimize create code program convert parse sort print compile deploy "
    "iterate call define declare run rewrite port generate build return test unit remove find check get set add "
    "concatenate split"
)
CODE_MARKS = (
    "```", "();", "=>", "==", "!=", "def ", "import {", "import java", "\nimport ", "print(", "</",
    "#include", "select * ", "::", "&&", "||", "self.", "console.log", "function(", "public static",
    "{\n", "};", "->", "+=", "npm ", "sudo ", "0x", "/>",
)  # fmt: skip

# --- live facts ---------------------------------------------------------------------------------

LIVE = _set(
    "weather forecast headlines showtimes wetter wetterbericht nachrichten météo meteo actualités noticias pronóstico"
)
LIVE_WEAK = _set(
    "news price prices stock stocks score scores traffic flight flights temperature rain raining snow snowing "
    "sunny humid chilly exchange rate rates currency dollar dollars euro euros yen open closed hours schedule "
    "schedules movie movies playing theater theaters cinema showing tickets election president minister ceo "
    "champion standings bitcoin shares delay delayed congestion gas worth cost costs release released alert "
    "advisory warm cold hot storm windy game match preis kurs aktienkurs öffnungszeiten prix horaires precio "
    "horario clima tiempo strike trending update updates"
)
NOW = _set(
    "now today tonight tomorrow currently current latest recent recently yesterday weekend nearby near live "
    "upcoming week heute morgen aktuell aktuelle aujourd'hui demain hoy mañana actual ahora moment tonight's "
    "today's monday tuesday wednesday thursday friday saturday sunday soon nearest"
)

# --- summaries ----------------------------------------------------------------------------------

SUMMARY = _set(
    "summarize summarise summarizing summarising summarized summarised summary summaries summarization tldr recap "
    "condense abridge synopsis gist takeaways zusammenfassung zusammenfassen fasse résumé résume résumer resume "
    "resumen resumir"
)
SUMMARY_MARKS = (
    "tl;dr",
    "key points",
    "main points",
    "in one sentence",
    "boil down",
    "in a nutshell",
    "sum up",
    "fass ",
)

# --- labels -------------------------------------------------------------------------------------

LABEL = _set(
    "classify classifying categorize categorise classification categorization klassifiziere klassifizieren "
    "einordnen classer classez classifie clasifica clasificar categoriza"
)
LABEL_WEAK = _set(
    "identify label labels category categories sentiment positive negative neutral spam true false yes no whether "
    "either options choose choices tag belongs belong which following bucket group detect determine decide "
    "stimmung"
)

# --- hard problems ------------------------------------------------------------------------------

HARD = _set(
    "prove proof theorem lemma rigorous rigorously derive derivation asymptotic invariant induction contradiction "
    "np-hard np-complete complexity distributed consensus linearizable linearizability idempotent sharding "
    "replication quorum raft paxos byzantine tolerant scalability concurrency deadlock race lockfree throughput "
    "tradeoffs architecture microservices optimal optimality convergence integral eigenvalue eigenvalues "
    "polynomial topology manifold bayesian stochastic differential equations cryptographic formal formally verify "
    "semantics compiler tenant migration strategy comprehensive critically beweise beweis démontrer démontrez "
    "demuestra demostrar"
)

# --- languages without spaces -------------------------------------------------------------------

CJK_MARKS = {
    "code": (
        "代码",
        "函数",
        "脚本",
        "编程",
        "报错",
        "コード",
        "関数",
        "プログラム",
        "スクリプト",
        "实现一个",
        "デバッグ",
    ),
    "web_search": (
        "天气",
        "新闻",
        "股价",
        "汇率",
        "今天",
        "最新",
        "天気",
        "ニュース",
        "株価",
        "為替",
        "今日の",
        "現在の",
    ),
    "summarisation": ("总结", "摘要", "概括", "要約", "まとめて", "概述"),
    "classification": ("分类", "归类", "情感", "分類", "正面还是", "ポジティブ", "判断"),
}
