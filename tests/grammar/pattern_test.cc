#include "pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "formats.h"

namespace longshelf::grammar {
namespace {

using ::testing::HasSubstr;

TEST(CompilePattern, FindsWhatAnExpressionDescribes) {
  for (const auto& [pattern, in, out] :
       std::initializer_list<std::tuple<const char*, std::vector<const char*>, std::vector<const char*>>>{
           {"", {"", "x"}, {}},
           {"b", {"b", "abc"}, {"", "ac"}},
           {"^ab*$", {"a", "abbb"}, {"", "b", "aab", "abc"}},
           {"a|^b|c$", {"xa", "bx", "xc"}, {"xb", "cx"}},
           {"^(ab|c){2}$", {"abab", "abc", "cc"}, {"ab", "c", "abcc"}},
           {"^a{2,3}?$", {"aa", "aaa"}, {"a", "aaaa"}},
           {"^a{2,}$", {"aa", "aaaaaa"}, {"a"}},
           {"^a{x}$", {"a{x}"}, {"a"}},
           {"^[^a-c\\d]$", {"d", "é", "\xF0\x9F\x98\x80"}, {"a", "5", ""}},
           {"^[\\w-]+$", {"a-b_9"}, {"a b", "é"}},
           {"^.$", {"x", "\xE2\x82\xAC"}, {"\n", "\xE2\x80\xA8", "xx"}},
           {"^\\u00e9\\u{1F600}\\ud83d\\ude00$", {"é\xF0\x9F\x98\x80\xF0\x9F\x98\x80"}, {"é"}},
           {"^\\x41\\cJ\\/\\.\\0$", {}, {"A\n/."}},
           {"^[\\b\\]]$", {"\b", "]"}, {"b"}},
           {"^(?:a(?<name>b)?)$", {"a", "ab"}, {"b"}},
           {"$^", {""}, {"a"}},
           {"(^|x)a", {"a", "xa", "bxa"}, {"ba"}}}) {
    const auto dfa = CompilePattern(pattern);
    ASSERT_TRUE(dfa.ok()) << pattern << ": " << dfa.status();
    for (const char* text : in) EXPECT_TRUE(dfa->Accepts(text)) << pattern << " in " << text;
    for (const char* text : out) EXPECT_FALSE(dfa->Accepts(text)) << pattern << " in " << text;
  }
}

TEST(CompilePattern, RefusesWhatNoFiniteAutomatonCanDoAndWhatIsTooMuch) {
  for (const auto& [pattern, says] : std::initializer_list<std::pair<std::string, const char*>>{
           {"(?=a)", "looks around"},
           {"(?<!a)b", "looks around"},
           {"(a)\\1", "refers back"},
           {"\\bword", "word boundary"},
           {"\\p{L}", "Unicode properties"},
           {"(a", "without a )"},
           {"a)", "without a ("},
           {"[a", "without a ]"},
           {"*a", "nothing to repeat"},
           {"a{3,2}", "wrong order"},
           {"[z-a]", "wrong order"},
           {"a\\", "backslash"},
           {"\\ud800", "code point"},
           {"a{5000}", "4096 times"},
           {"((a{99}){99}){99}", "states"},
           {"(a|b)*a(a|b){14}", "states"},
           {std::string(5000, 'a'), "4096 bytes"},
           {std::string(200, '(') + std::string(200, ')'), "deeply"}}) {
    const auto dfa = CompilePattern(pattern);
    ASSERT_FALSE(dfa.ok()) << pattern;
    EXPECT_THAT(std::string(dfa.status().message()), HasSubstr(says)) << pattern.substr(0, 40);
  }
}

TEST(CharDfa, IsClosedUnderComplementIntersectionAndUnion) {
  const CharDfa a = *CompilePattern("^a+$");
  const CharDfa b = *CompilePattern("^.{2}$");
  EXPECT_TRUE(CharDfa::Intersect(a, b)->Accepts("aa"));
  EXPECT_FALSE(CharDfa::Intersect(a, b)->Accepts("a"));
  EXPECT_TRUE(CharDfa::Unite(a, b)->Accepts("xy"));
  EXPECT_FALSE(CharDfa::Complement(a).Accepts("aa"));
  EXPECT_TRUE(CharDfa::Complement(a).Accepts(""));
  EXPECT_TRUE(CharDfa::Intersect(a, CharDfa::Complement(a))->empty());
  EXPECT_EQ(CharDfa::Complement(CharDfa::Complement(a)), a);
  EXPECT_EQ(*CharDfa::Unite(a, CharDfa::Complement(a)), CharDfa::Any());
}

TEST(PatternOfFormat, CompilesForEveryName) {
  for (const auto& [format, good, bad] : std::initializer_list<std::array<const char*, 3>>{
           {"date", "2024-02-29", "2023-02-29"},
           {"date-time", "2024-01-31T23:59:59.5Z", "2024-01-31 23:59:59Z"},
           {"time", "12:00:00+01:30", "24:00:00Z"},
           {"duration", "P1Y2M3DT4H5M6S", "P1DT"},
           {"email", "a.b+c@d-e.org", "a..b@c"},
           {"hostname", "a-b.example", "-a.b"},
           {"ipv4", "255.0.10.1", "256.0.0.1"},
           {"ipv6", "fe80::1:192.168.0.1", "1::2::3"},
           {"uri", "https://a.b/c%20d?e#f", "/c"},
           {"uuid", "2eb8aa08-AA98-11ea-b4aa-73b441d16380", "2eb8aa08"}}) {
    const auto pattern = PatternOfFormat(format);
    ASSERT_TRUE(pattern.has_value()) << format;
    const auto dfa = CompilePattern(*pattern);
    ASSERT_TRUE(dfa.ok()) << format << dfa.status();
    EXPECT_TRUE(dfa->Accepts(good)) << format;
    EXPECT_FALSE(dfa->Accepts(bad)) << format;
  }
  EXPECT_FALSE(PatternOfFormat("iri").has_value());
}

}  // namespace
}  // namespace longshelf::grammar
