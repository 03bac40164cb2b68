#include "router/suspicion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace longshelf::router {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// 'p' is placed, 't' gets a token, 'T' gets kProofTokens of them, 'd' dies.
Suspicion After(const std::string& history) {
  Suspicion s;
  uint64_t n_deaths = 0;
  for (const char c : history) {
    if (c == 'p') s.OnPlaced();
    if (c == 't') s.OnToken();
    for (uint32_t i = 0; c == 'T' && i < kProofTokens; ++i) s.OnToken();
    if (c == 'd') s.OnDeath(++n_deaths, absl::UnixEpoch());
  }
  return s;
}

struct Row {
  const char* what;
  std::vector<std::pair<int, const char*>> streams;  // request, history with the death that is judged
  std::vector<size_t> blamed;
  bool others_died = false;
};

TEST(FindBlamed, Table) {
  const Row rows[] = {
      {"nobody was there", {}, {}},
      {"one death says nothing", {{1, "pd"}}, {}},
      {"nor when all are new", {{1, "pd"}, {2, "pd"}, {3, "ptd"}}, {}},
      {"two deaths before any token", {{1, "pdpd"}}, {0}},
      {"two deaths at one position", {{1, "ptttdpd"}}, {0}},
      {"whoever is new there is innocent", {{2, "pd"}, {1, "pdpd"}, {3, "pTd"}}, {1}},
      {"a token between is an alibi", {{1, "pdptd"}}, {}},
      {"also the last moment's", {{1, "pTdptd"}}, {}},
      {"two suspects: not known which", {{1, "pdpd"}, {2, "pdpd"}}, {}},
      {"the choices of one request are one suspect", {{1, "pdpd"}, {1, "pdpd"}}, {0, 1}},
      {"and those that got on are not refused", {{1, "pdpd"}, {1, "pdptd"}}, {0}},
      {"tried apart after all", {{1, "pdpdpd"}, {2, "pdptd"}}, {0}},
      {"three early deaths", {{1, "pTdptdptd"}}, {0}},
      {"two deaths while others die", {{1, "pdpd"}}, {}, true},
      {"three deaths while others die", {{1, "pdpdpd"}}, {0}, true},
      {"three early deaths while others die", {{1, "pTdptdptd"}}, {}, true},
      {"the first one may be late, the others not", {{1, "pTdpTdptd"}}, {}},
      {"two early deaths are not enough", {{1, "ptdptd"}}, {}},
      {"whom the stronger evidence names", {{1, "ptdptdptd"}, {2, "pdpd"}}, {1}},
      {"two with three early deaths", {{1, "ptdptdptd"}, {2, "ptdptdptd"}}, {}},
  };
  for (const Row& row : rows) {
    std::vector<Suspicion> suspicions;
    for (const auto& stream : row.streams) suspicions.push_back(After(stream.second));
    std::vector<DeathWitness> witnesses;
    for (size_t i = 0; i < suspicions.size(); ++i) {
      witnesses.push_back({reinterpret_cast<const void*>(static_cast<intptr_t>(row.streams[i].first)), &suspicions[i],
                           row.others_died});
    }
    EXPECT_EQ(FindBlamed(witnesses), row.blamed) << row.what;
  }
}

TEST(Suspicion, ADeathThatWasNoneIsForgotten) {
  Suspicion s = After("pdpd");
  s.OnSurvived(1);
  EXPECT_EQ(s.n_silent, 2u) << "that was the first; the last one is another";
  s.OnSurvived(2);
  EXPECT_EQ(s.n_silent, 1u);
  s.OnSurvived(2);
  EXPECT_EQ(s.n_silent, 1u);
}

TEST(UnexplainedDeaths, AreThoseOfTheLastMinuteThatAStreamWasNotUnder) {
  const absl::Time begin = absl::UnixEpoch();
  UnexplainedDeaths deaths;
  Suspicion s;
  deaths.Add(1, begin);
  s.OnDeath(1, begin);
  EXPECT_FALSE(deaths.HasOthers(s));
  deaths.Add(2, begin + absl::Seconds(1));
  EXPECT_TRUE(deaths.HasOthers(s));
  deaths.Remove(2);
  EXPECT_FALSE(deaths.HasOthers(s)) << "somebody was blamed for it";
  deaths.Add(3, begin + absl::Seconds(2));
  deaths.Add(4, begin + absl::Seconds(63));
  s.OnDeath(4, begin + absl::Seconds(63));
  EXPECT_FALSE(deaths.HasOthers(s)) << "it was long ago";
}

}  // namespace
}  // namespace longshelf::router
